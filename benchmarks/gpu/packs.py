"""Packs: S LoRA cells in one pass against one after another, and AdaPaD's S lanes in one pass against a step of LoRA.

Median of single steps, after two that are not counted; memory is the peak of what follows it in the row. `gain` is the
time of S cells one after another over that of the pack. bf16 is `precision: mixed`, and autocast for PEFT. All cells
see the same texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch

from adapad_ray.training.cell import Workspace
from adapad_ray.training.packs import SharedPasses
from benchmarks.gpu import cells
from benchmarks.gpu.scale import DEVICE, Scale, backbone, random_task
from benchmarks.gpu.step_times import by_peft, seconds_of

PRECISIONS: Mapping[str, Literal["full", "mixed"]] = {"fp32": "full", "bf16": "mixed"}
SLOTS = 8


def measure(scale: Scale, model: str | None) -> Iterator[dict[str, Any]]:
    """One row per shape and precision; the smallest shape also with four times as many slots."""
    slots = min(SLOTS, scale.rank)
    points = [(shape, precision, slots) for shape in scale.shapes for precision in PRECISIONS]
    points.insert(len(PRECISIONS), (scale.shapes[0], "bf16", 4 * slots))
    for shape, precision, most in points:
        row: dict[str, Any] = {"model": shape, "precision": precision}
        try:
            for found in figures(shape, precision, scale, most):
                row |= found
        except Exception as error:  # noqa: BLE001 - one shape must not hide the others
            row["error"] = f"{type(error).__name__}: {error}"[:300]
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
        yield row


def figures(shape: str, precision: str, scale: Scale, slots: int) -> Iterator[dict[str, Any]]:
    """Step times of one shape with so many slots, one after another."""
    yield {"slots": slots, "PEFT's LoRA": _ms(seconds_of(by_peft(shape, precision, scale), scale))}
    workspace = Workspace(backbone(shape, precision=PRECISIONS[precision]), random_task(scale), DEVICE)
    with _trainer("lora", workspace, scale) as lora:
        one = seconds_of(lora.train_step, scale)
    yield {"LoRA": _ms(one)}
    packed = seconds_of(_packed_cells(workspace, scale, slots), scale)
    yield {"LoRA, packed": _ms(packed) + _peak(), "gain": f"{slots * one / packed:.2f}"}
    lanes = {"initial_rank": slots, "r_max": slots}
    scale = replace(scale, rank=max(scale.rank, slots))  # the budget that so many lanes need
    if shape == scale.shapes[0]:  # elsewhere it would take most of the time
        with _trainer("adapad", workspace, scale, lanes) as trainer:
            yield {"AdaPaD": _ms(seconds_of(trainer.train_step, scale))}
    with _trainer("adapad", workspace, scale, lanes, slots_per_pass=slots) as trainer:
        seconds = seconds_of(trainer.train_step, scale)
    yield {"AdaPaD, packed": _ms(seconds) + _peak(), "of LoRA's step": f"{seconds / one:.2f}"}
    if DEVICE == "cuda":
        with _trainer("adapad", workspace, scale, lanes, slots_per_pass="auto") as trainer:
            trainer.train_step()
            yield {"auto": trainer.passes.most_slots}


@contextmanager
def _trainer(
    method: str,
    workspace: Workspace,
    scale: Scale,
    config: Mapping[str, Any] | None = None,
    slots_per_pass: int | Literal["auto"] = 1,
) -> Iterator[Any]:
    """A started trainer; the backbone is given back."""
    cell = cells.identity(method, workspace, scale, config, epochs=100)
    trainer = cells.trainer(cell, workspace, slots_per_pass)
    try:
        trainer.start()
        yield trainer
    finally:
        trainer.adapted.detach()


def _packed_cells(workspace: Workspace, scale: Scale, slots: int) -> Callable[[], None]:
    """A step of so many LoRA cells in one pass."""
    passes, trainers = SharedPasses(slots), []
    for _ in range(slots):
        twin = workspace.twin()
        trainer = cells.trainer(cells.identity("lora", twin, scale, None, epochs=100), twin)
        trainer.start()
        trainers.append(trainer)

    def step() -> None:
        failures = passes.train_step(trainers)
        if failures:
            raise next(iter(failures.values()))

    return step


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"


def _peak() -> str:
    return f", {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if DEVICE == "cuda" else ""
