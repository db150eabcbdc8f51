"""One launch while it computes: which cells of a wave are missing, their jobs, and the events of those jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adapad_ray.distributed import GroupRetired, JobProgress, PoolEvent
from adapad_ray.report.inputs import StoppedTrial
from adapad_ray.results import CellResult
from adapad_ray.search.trial import PAUSED
from adapad_ray.storage import WorkingFolder
from adapad_ray.sweep.executor import Executor
from adapad_ray.sweep.observers import Observers, SweepObserver, SweepState, Work
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.cells import Cell, PlannedCell, Wave, load_finished
from adapad_ray.sweep.planning.packing import company


class Launch:
    """What the stages of a sweep use to compute their cells."""

    def __init__(
        self, cells: CellFactory, folder: WorkingFolder, state: SweepState, executor: Executor, observers: Observers
    ) -> None:
        self.spec, self.state, self.executor, self.observers = cells.spec, state, executor, observers
        self._cells, self._folder = cells, folder

    def start_wave(self, wave: Wave) -> list[PlannedCell]:
        """Adds a wave to the launch; returns its missing cells, each once, without those that have failed in it.

        Those that train longest come first, so that no group is left alone with one at the end.
        """
        state, known = self.state, len(self.state.results)
        new = {planned.id for planned in wave if not planned.counted} - state.cells.keys()
        missing = find_missing(wave, state, self._folder)
        state.work.update({planned.id: self._work(planned.cell) for planned in missing})
        self.observers.notify(SweepObserver.wave_planned, wave, len(new))
        reused = list(state.results.values())[known:]
        if reused:
            self.observers.notify(SweepObserver.cells_reused, reused)
        missing = [planned for planned in missing if planned.id not in state.failures]
        return sorted(missing, key=lambda planned: -state.work[planned.id].training)

    def _work(self, cell: Cell) -> Work:
        return Work(self._cells.lane_steps(cell), self._cells.evaluation_passes(cell.identity.stage))

    def start_early(self, wave: Wave) -> None:
        """Has the missing cells of a wave that comes later computed while groups would be idle."""
        missing = self.start_wave(wave)
        if missing:
            self.executor.start_jobs({planned.id: self.job(planned.cell) for planned in missing}, self.on_event)

    def compute(self, missing: Sequence[PlannedCell]) -> None:
        """Computes cells; those that come first start first."""
        if missing:
            self.executor.run_jobs({planned.id: self.job(planned.cell) for planned in missing}, self.on_event)

    def job(self, cell: Cell) -> dict[str, Any]:
        """The job that computes a cell, for `distributed.cell_jobs.compute`."""
        return {
            "sweep": self.spec.name,
            "identity": cell.identity.model_dump(mode="json"),
            "folder": self._folder.within(cell.within_sweep),
            "base_model": self.spec.model,
            "checkpoint_seconds": self.spec.checkpoint.seconds,
            "checkpoint_rounds": self.spec.checkpoint.rounds,
            "slots_per_pass": self.spec.resources.slots_per_pass,
            "company": company(self.spec, cell.identity),
            "validations": self.spec.validations,
            "max_minutes": self.spec.max_minutes.cell,
        }

    def on_event(self, event: PoolEvent) -> None:
        """Records an event and passes it to the observers."""
        if isinstance(event, GroupRetired):
            self.observers.notify(SweepObserver.group_retired, event)
            return
        state, cell = self.state, self.state.cells[event.job_id]
        state.stopped.pop(cell.id, None)  # it takes the place of trials that have failed
        if isinstance(event, JobProgress):
            self.observers.notify(SweepObserver.cell_progress, cell, event)
        elif event.status == "done" and PAUSED in event.value:
            self._folder.fetch(cell.within_sweep)
            self.observers.notify(SweepObserver.cell_paused, cell, event.value[PAUSED])
        elif event.status == "done":
            self._folder.fetch(cell.within_sweep)
            result = state.results[cell.id] = load_finished([cell], self._folder.path)[cell.id]
            state.computed += 1
            self.observers.notify(SweepObserver.cell_finished, cell, result, event.attempts)
        else:
            assert event.error is not None
            state.failures[cell.id] = f"{event.error.type}: {event.error.message}"
            self.observers.notify(SweepObserver.cell_failed, cell, state.failures[cell.id], event.attempts)

    def stop(self, cell: Cell, trial: StoppedTrial) -> None:
        """Records that a trial of the tune stage is stopped early."""
        self.state.stopped[cell.id] = trial
        self.observers.notify(SweepObserver.trial_stopped, cell, trial)

    def result(self, cell: Cell) -> CellResult | None:
        """The record of a cell; None if it is not finished."""
        return load_finished([cell], self._folder.path).get(cell.id)


def find_missing(wave: Wave, state: SweepState, folder: WorkingFolder) -> list[PlannedCell]:
    """Adds the cells of a wave, and the results of those that are finished, to `state`; returns the missing cells."""
    state.cells.update({planned.id: planned.cell for planned in wave})
    unknown = [planned.cell for planned in wave if planned.id not in state.results]
    state.results.update(load_finished(unknown, folder.path))
    return list({planned.id: planned for planned in wave if planned.id not in state.results}.values())
