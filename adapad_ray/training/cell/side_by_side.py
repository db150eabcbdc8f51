"""Several packed cells in one process: they share passes, and each ends, fails and is recorded by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adapad_ray.accelerator import is_lost, wait_for_device
from adapad_ray.results import CellResult
from adapad_ray.training.cell.request import CellRequest
from adapad_ray.training.cell.run import CellSteps, cell_steps, training_arithmetic
from adapad_ray.training.cell.workspace import Workspace
from adapad_ray.training.packs import SharedPasses
from adapad_ray.training.record import OnProgress, RoundObserver
from adapad_ray.training.trainer import Trainer

CellEnd = CellResult | Exception | None
"""How a cell ended: its record, or what ended it; None if it has paused."""


@dataclass(frozen=True)
class PackedCell:
    """A cell to compute beside others."""

    request: CellRequest
    on_progress: OnProgress | None = None
    observer: RoundObserver | None = None


@dataclass
class _Running:
    """A cell whose next step is due."""

    steps: CellSteps
    trainer: Trainer
    since: float
    """When it became due, on the clock of `time.perf_counter`."""


def run_packed_cells(
    cells: Mapping[str, PackedCell], workspace: Workspace, on_end: Callable[[str, CellEnd], None]
) -> None:
    """Computes cells, or resumes them, with the lanes of all of them in shared passes.

    Their identities are packed, and agree in data, batch size, precision, optimizer and target of arithmetic. A cell
    that ends is recorded at once, and leaves the others running. Training times in the records are each cell's share,
    by its lanes.

    Args:
        cells: by name.
        on_end: called with the name of a cell when it has ended or paused.

    Raises:
        Exception: one that leaves the accelerator unusable; all cells that have not ended are lost.
    """
    first = next(iter(cells.values())).request
    _SideBySide(workspace, SharedPasses(first.slots_per_pass), on_end).run(cells, first)


class _SideBySide:
    def __init__(self, workspace: Workspace, passes: SharedPasses, on_end: Callable[[str, CellEnd], None]) -> None:
        self._workspace, self._passes, self._on_end = workspace, passes, on_end
        self._running: dict[str, _Running] = {}

    def run(self, cells: Mapping[str, PackedCell], first: CellRequest) -> None:
        with training_arithmetic(first.identity):
            try:
                for name, cell in cells.items():
                    self._start(name, cell)
                while self._running:
                    self._step()
            finally:
                for running in self._running.values():
                    running.steps.close()

    def _start(self, name: str, cell: PackedCell) -> None:
        steps = cell_steps(
            cell.request,
            self._workspace.twin(),
            on_progress=cell.on_progress,
            observer=cell.observer,
            passes=self._passes,
        )
        self._advance(name, steps)

    def _step(self) -> None:
        """One step of every cell."""
        running = dict(self._running)
        began = time.perf_counter()
        failures = self._passes.train_step([r.trainer for r in running.values()])
        if any(r.trainer.ends_round for r in running.values()):
            wait_for_device(self._workspace.device)  # or the first cell that reads its losses would wait for all
        taken = time.perf_counter() - began
        lanes = {name: self._passes.lanes_of(r.trainer) for name, r in running.items()}
        for name, r in running.items():
            share = taken * lanes[name] / max(1, sum(lanes.values()))
            r.trainer.stopwatch.leave_out(time.perf_counter() - r.since - share)
            if r.trainer in failures:
                self._fail(name, r.steps, r.trainer, failures[r.trainer])
            else:
                self._advance(name, r.steps, r.trainer)

    def _advance(self, name: str, steps: CellSteps, trainer: Trainer | None = None) -> None:
        """Lets a cell go on to its next step, or to its end."""
        try:
            trainer = next(steps)
        except StopIteration as ended:
            self._end(name, trainer, ended.value)
        except Exception as error:  # noqa: BLE001 - it ends its cell alone, whatever it is
            self._fail(name, steps, trainer, error)
        else:
            self._running[name] = _Running(steps, trainer, time.perf_counter())

    def _fail(self, name: str, steps: CellSteps, trainer: Trainer | None, error: Exception) -> None:
        if is_lost(error):
            raise error
        steps.close()
        self._end(name, trainer, error)

    def _end(self, name: str, trainer: Trainer | None, end: Any) -> None:
        self._running.pop(name, None)
        if trainer is not None:
            self._passes.forget(trainer)
        self._on_end(name, end)
