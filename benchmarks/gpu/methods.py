"""Every method for 20 steps: its waits for the device, its speed, its repeatability, and what PEFT makes of its export.

Columns: waits for the device in one optimizer step and in one round, the end of the round included; milliseconds per
step; the largest difference of a loss from the CPU's; whether a second run gives bitwise the same losses and adapter;
the largest difference of a logit between the trained model and PEFT's.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from safetensors.torch import load_file

from adapad_ray.methods import METHODS
from adapad_ray.training.cell import Workspace
from adapad_ray.training.cell.evaluation import predict
from benchmarks.gpu import cells
from benchmarks.gpu.scale import DEVICE, Scale, backbone, random_task


def measure(scale: Scale, model: str | None) -> Iterator[dict[str, Any]]:
    """One row per method, and one for AdaPaD that grows from rank 0 by the gradients of the frozen weights."""
    if DEVICE == "cuda":
        torch.set_num_threads(4)
    small = replace(scale, batch_size=4, tokens=min(scale.tokens, 32), rank=2)  # the CPU does it too
    for name in METHODS:
        yield _row(name, {"unit": "module"} if name == "ard" else {}, small)  # a unit per head has a larger minimum
    yield _row("adapad", {"initial_rank": 0}, small)


def _row(method: str, config: dict[str, Any], scale: Scale) -> dict[str, Any]:
    label = " ".join([method, *(f"{key}={value}" for key, value in config.items())])
    try:
        return {"method": label, **_figures(method, config, scale)}
    except Exception as error:  # noqa: BLE001 - one method must not hide the others
        return {"method": label, "error": f"{type(error).__name__}: {error}"[:300]}


def _figures(method: str, config: dict[str, Any], scale: Scale) -> dict[str, Any]:
    data = random_task(scale)
    there = Workspace(backbone(scale.shapes[0]), data, DEVICE)
    cell = cells.identity(method, there, scale, config)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("first", "second")]
        first, second = (cells.run(cell, there, path) for path in paths)
        figures = _waits(cell, there) if cells.trains_itself(cell, there) else {}
        figures |= {
            "ms a step": round(1e3 * second.cost.train_seconds / max(1, second.cost.steps), 1),
            "passes": second.cost.lane_passes,
            "repeats": "bitwise" if _same(first.train_loss == second.train_loss, *paths) else "no",
        }
        if DEVICE == "cuda":
            here = Workspace(backbone(scale.shapes[0], "cpu"), data, "cpu")
            cpu = cells.run(cell, here, Path(folder) / "cpu")
            figures["from the CPU"] = f"{np.abs(np.subtract(cpu.train_loss, first.train_loss)).max(initial=0):.1e}"
        if first.final.adapter is not None:
            figures["PEFT"] = f"{_peft_difference(paths[0], data, scale):.1e}"
    return figures


def _waits(cell: Any, workspace: Workspace) -> dict[str, Any]:
    """Waits in the third round; the first ones allocate."""
    trainer = cells.trainer(cell, workspace)
    trainer.start()
    interval = trainer.method.local_steps
    trainer.run(stop_at=2 * interval)
    round_waits = _count(lambda: trainer.run(stop_at=3 * interval))
    step_waits = _count(trainer.train_step)
    trainer.adapted.detach()
    return {"waits in a step": step_waits, "in a round": round_waits, "steps a round": interval}


def _count(work: Callable[[], Any]) -> int | str:
    if DEVICE != "cuda":
        work()
        return "-"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def _same(losses: bool, first: Path, second: Path) -> bool:
    """Whether losses and exported tensors are bitwise equal."""
    files = [sorted(path.glob("adapter/*.safetensors")) for path in (first, second)]
    tensors = [{k: v for file in group for k, v in load_file(file).items()} for group in files]
    return losses and all(torch.equal(value, tensors[1][key]) for key, value in tensors[0].items())


def _peft_difference(folder: Path, data: Any, scale: Scale) -> float:
    trained = load_file(folder / "predictions.safetensors")["test/final"].numpy()
    loaded = peft.PeftModel.from_pretrained(backbone(scale.shapes[0]).model, folder / "adapter").to(DEVICE)
    logits = predict(loaded, data.splits["test"], batch_size=64, pad_token_id=0, device=DEVICE)
    return float(np.abs(logits - trained).max())
