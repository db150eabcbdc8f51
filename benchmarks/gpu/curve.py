"""A whole curve, six budgets of LoRA, AdaPaD and CP with three seeds: in packs, cell after cell, and as PEFT's LoRA.

PEFT's time is that of its LoRA step times all steps: its users train every point of a curve by itself. Evaluation and
export are in the first two.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adapad_ray.results import CellIdentity
from adapad_ray.training.cell import CellRequest, PackedCell, Workspace, run_cell, run_packed_cells
from benchmarks.gpu import cells
from benchmarks.gpu.scale import DEVICE, Scale, backbone, random_task, synchronize
from benchmarks.gpu.step_times import by_peft, seconds_of

METHODS = ("lora", "adapad", "cp")
PRECISION = "mixed"


def measure(scale: Scale, model: str | None) -> Iterator[dict[str, Any]]:
    """One row, for the smallest shape."""
    shape = scale.shapes[0]
    workspace = Workspace(backbone(shape, precision=PRECISION), random_task(scale), DEVICE)
    ranks = sorted({max(1, scale.rank * k // 8) for k in (1, 2, 3, 4, 6, 8)})
    points = [(method, rank) for method in METHODS for rank in ranks]
    planned = [_cell(method, rank, seed, workspace, scale) for method, rank in points for seed in range(scale.seeds)]
    with tempfile.TemporaryDirectory() as folder:
        packed, slots = _packed(planned, workspace, Path(folder))
        first_seed = [cell for cell in planned if cell.seed == 0]
        alone = scale.seeds * _one_after_another(first_seed, workspace, Path(folder))
    steps = scale.steps * len(planned)
    peft = steps * seconds_of(by_peft(shape, "bf16", scale), scale)
    yield {
        "model": shape,
        "cells": len(planned),
        "steps of each": scale.steps,
        "slots per pass": slots,
        "packed": f"{packed:.1f} s",
        "one after another": f"{alone:.1f} s",
        "PEFT's LoRA": f"{peft:.1f} s",
        "of one after another": f"{packed / alone:.2f}",
        "of PEFT": f"{packed / peft:.2f}",
    }


def _cell(method: str, rank: int, seed: int, workspace: Workspace, scale: Scale) -> CellIdentity:
    made = cells.identity(method, workspace, scale)
    return made.model_copy(
        update={"seed": seed, "budget": (made.budget or 0) * rank // scale.rank, "precision": PRECISION}
    )


def _packed(planned: list[CellIdentity], workspace: Workspace, folder: Path) -> tuple[float, str]:
    """Seconds of all cells side by side, and most lanes of a pass."""
    slots: Any = "auto" if DEVICE == "cuda" else 8
    requests = {}
    for n, cell in enumerate(planned):
        identity, own = cell.model_copy(update={"packed": True}), folder / f"packed-{n}"
        requests[str(n)] = CellRequest(str(n), identity, own, "random", slots_per_pass=slots)
    began = time.perf_counter()
    ends: dict[str, Any] = {}
    run_packed_cells({n: PackedCell(r) for n, r in requests.items()}, workspace, lambda n, end: ends.update({n: end}))
    synchronize()
    seconds = time.perf_counter() - began
    failed = [end for end in ends.values() if isinstance(end, Exception)]
    if failed:
        raise failed[0]
    return seconds, str(slots)


def _one_after_another(planned: list[CellIdentity], workspace: Workspace, folder: Path) -> float:
    began = time.perf_counter()
    for n, cell in enumerate(planned):
        run_cell(CellRequest(str(n), cell, folder / f"alone-{n}", "random"), workspace)
    synchronize()
    return time.perf_counter() - began
