"""Step times and peak memory: PEFT's LoRA, LoRA and AdaPaD here, in fp32, TF32 and bf16, on models of real shapes.

Median of single steps, after two that are not counted. bf16 is `precision: mixed`, where the products of frozen weights
are in bf16; for PEFT, torch's autocast.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import peft
import torch
from torch import nn
from torch.nn import functional as F

from adapad_ray.models.target_modules import target_modules
from adapad_ray.training.cell import Workspace
from benchmarks.gpu import cells
from benchmarks.gpu.scale import DEVICE, Scale, backbone, random_task, synchronize

PRECISIONS = ("fp32", "TF32", "bf16")


def measure(scale: Scale, model: str | None) -> Iterator[dict[str, Any]]:
    """One row per shape and precision."""
    for shape in scale.shapes:
        for precision in PRECISIONS:
            yield _row(shape, precision, scale)


def _row(shape: str, precision: str, scale: Scale) -> dict[str, Any]:
    torch.set_float32_matmul_precision("high" if precision == "TF32" else "highest")
    candidates: dict[str, Callable[[], Callable[[], Any]]] = {
        "PEFT LoRA": lambda: by_peft(shape, precision, scale),
        "LoRA": lambda: _ours("lora", {}, shape, precision, scale),
    }
    for lanes in scale.lanes:
        config = {"initial_rank": lanes, "r_max": lanes}
        candidates[f"AdaPaD, {lanes} lanes"] = lambda config=config: _ours("adapad", config, shape, precision, scale)
    row: dict[str, Any] = {"model": shape, "precision": precision}
    for name, make in candidates.items():
        try:
            row |= _timed(name, make(), scale)
        except Exception as error:  # noqa: BLE001 - one candidate must not hide the others
            row["error"] = f"{name}: {type(error).__name__}: {error}"[:300]
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
    return row


def _timed(name: str, step: Callable[[], Any], scale: Scale) -> dict[str, str]:
    milliseconds = 1e3 * seconds_of(step, scale)
    peak = f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if DEVICE == "cuda" else ""
    return {name: f"{milliseconds:.1f} ms{peak}"}


def seconds_of(step: Callable[[], Any], scale: Scale) -> float:
    """Median time of a step after two that are not counted, whose peak of memory is not either; CPU time on a CPU."""
    clock = time.perf_counter if DEVICE == "cuda" else time.process_time
    for _ in range(2):
        step()
    synchronize()
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(scale.timed_steps):
        began = clock()
        step()
        synchronize()
        seconds.append(clock() - began)
    return float(np.median(seconds))


def _ours(method: str, config: dict[str, Any], shape: str, precision: str, scale: Scale) -> Callable[[], Any]:
    frozen = backbone(shape, precision="mixed" if precision == "bf16" else "full")
    workspace = Workspace(frozen, random_task(scale), DEVICE)
    cell = cells.identity(method, workspace, scale, config, epochs=100)
    trainer = cells.trainer(cell, workspace)
    trainer.start()
    return trainer.train_step


def by_peft(shape: str, precision: str, scale: Scale) -> Callable[[], Any]:
    """A training step of PEFT's LoRA."""
    frozen, train = backbone(shape), random_task(scale).splits["train"]
    names = [m.name for m in target_modules(frozen.model, "all-linear")]
    config = peft.LoraConfig(
        r=scale.rank, lora_alpha=2, target_modules=names, modules_to_save=list(frozen.head_modules)
    )
    model = peft.get_peft_model(frozen.model, config)  # type: ignore[arg-type]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    rows = np.arange(len(train)).reshape(-1, scale.batch_size)
    turn = iter(range(1 << 30))

    def step() -> None:
        batch = train.batch(rows[next(turn) % len(rows)], 0)
        batch = {key: value.to(DEVICE) for key, value in batch.items()}
        labels = batch.pop("labels")
        with torch.autocast(DEVICE, torch.bfloat16) if precision == "bf16" else nullcontext():
            logits = model(**batch).logits
        F.cross_entropy(logits.float(), labels).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
