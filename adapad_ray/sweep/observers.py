"""What listens to a launch of a sweep: a base class with one method per event, and the observers of every launch."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, NamedTuple, ParamSpec

from adapad_ray.errors import BadRequestError, StorageError
from adapad_ray.report.inputs import FailedCell, Gap, StoppedTrial
from adapad_ray.results import CellResult
from adapad_ray.storage import WorkingFolder
from adapad_ray.wording import counted

if TYPE_CHECKING:  # the console is an observer too, and commands that only read a sweep start without Ray
    from adapad_ray.distributed import GroupRetired, JobProgress
    from adapad_ray.report.page import Report
    from adapad_ray.sweep.lock import SweepLock
    from adapad_ray.sweep.planning.cells import Cell, Wave
    from adapad_ray.sweep.planning.tune_cells import Winners
    from adapad_ray.tasks import SplitSize
    from adapad_ray.tracking.cell_writer import CellWriter
    from adapad_ray.tracking.tracker import Tracker

P = ParamSpec("P")


class Work(NamedTuple):
    """What a cell computes, in forward and backward passes over one batch."""

    training: float
    evaluation: float
    """Its forward passes count a third each. Prefixes of the final model are not included."""


NO_WORK = Work(0.0, 0.0)


@dataclass
class SweepState:
    """The cells of a launch so far. Observers may keep it, and read it from other threads through copies."""

    cells: dict[str, Cell] = field(default_factory=dict)
    """Planned so far, by id."""
    results: dict[str, CellResult] = field(default_factory=dict)
    """Results of finished cells, by id."""
    failures: dict[str, str] = field(default_factory=dict)
    """Cell id → why it has no result, as `<type of error>: <message>`."""
    stopped: dict[str, StoppedTrial] = field(default_factory=dict)
    """Trials that were stopped early, by cell id: neither results nor failures."""
    computed: int = 0
    """Cells that this launch finished; it reuses the other results."""
    work: dict[str, Work] = field(default_factory=dict)
    """By id, of the cells that this launch computes."""
    mean_work: Work = NO_WORK
    """Of the cells of the curve as planned: all that is known of cells to come."""


@dataclass
class SweepOutcome:
    """How a launch ended."""

    computed: int
    """Cells that this launch finished."""
    reused: int
    """Cells that earlier launches had finished."""
    failed: list[FailedCell]
    report: Report | None
    """None if no cell of the curve is finished."""
    gaps: Sequence[Gap] = ()
    """(label, budget) pairs that cannot exist."""
    links: dict[str, str] = field(default_factory=dict)
    """Addresses and commands that show the sweep in its trackers, by name; known when the launch has ended."""
    stopped: Sequence[StoppedTrial] = ()
    """Trials that were stopped early, by this launch or before."""
    trials: int = 0
    """Trials of the tune stage that are finished or were stopped."""

    @property
    def cells_in_words(self) -> str:
        """`10 cells computed, 0 reused, 0 failed`; with those that were stopped early and the sum, where there are."""
        words = f"{counted(self.computed, 'cell')} computed, {self.reused} reused, {len(self.failed)} failed"
        if not self.stopped:
            return words
        total = self.computed + self.reused + len(self.failed) + len(self.stopped)
        return f"{words}, {len(self.stopped)} stopped early: {counted(total, 'cell')} in all"

    @property
    def stopped_in_words(self) -> str:
        """`6 of 12 trials stopped early`."""
        return f"{len(self.stopped)} of {counted(self.trials, 'trial')} stopped early"


class SweepObserver:
    """Listens to one launch. Every method does nothing: override those that you need.

    They are called in the driver's main thread, for each event in the order of the observers. An exception ends the
    launch.
    """

    def nothing_to_compute(self, cells: int) -> None:
        """Earlier launches have finished all `cells` cells; `sweep_ended` follows."""

    def data_read(self, sizes: Mapping[str, SplitSize]) -> None:
        """The data of a launch that has cells to compute: split → its rows; `computing_started` follows."""

    def computing_started(self, state: SweepState, expected: int, groups: int, dashboard: str | None = None) -> None:
        """Worker groups are starting.

        Args:
            state: grows during the launch.
            expected: number of cells, as far as it is known.
            groups: cells that run side by side.
            dashboard: address of a page that shows the processes; None without one.
        """

    def wave_planned(self, wave: Wave, additional: int) -> None:
        """The cells of `wave` are known; `additional` of them are not in the expected number."""

    def cells_reused(self, results: Sequence[CellResult]) -> None:
        """An earlier launch has finished these cells of the wave."""

    def winners_found(self, winners: Winners, edges: Sequence[str]) -> None:
        """The tune stage has ended, and the curve is about to be computed.

        `edges` has a sentence for every best value that lies at the edge of those tried.
        """

    def trial_failed(self, label: str, number: int, reason: str) -> None:
        """The cell of a search's trial cannot exist: the trial counts as failed."""

    def cell_progress(self, cell: Cell, progress: JobProgress) -> None:
        """A running cell has reported its progress."""

    def cell_finished(self, cell: Cell, result: CellResult, attempts: int) -> None:
        """A cell has its result, after this many attempts."""

    def cell_failed(self, cell: Cell, reason: str, attempts: int) -> None:
        """A cell has ended without a result; `reason` is `<type of error>: <message>`."""

    def cell_paused(self, cell: Cell, step: int) -> None:
        """The training of a trial waits, after this step, for the others to come as far."""

    def trial_stopped(self, cell: Cell, trial: StoppedTrial) -> None:
        """A trial of the tune stage does not go on: others were better where all paused."""

    def group_retired(self, retired: GroupRetired) -> None:
        """A worker group cannot be used; the others go on."""

    def computing_ended(self) -> None:
        """No cell is running any more; also called if an exception ended the launch."""

    def report_started(self, state: SweepState) -> None:
        """Every cell has ended, and the report is about to be written."""

    def sweep_ended(self, state: SweepState, outcome: SweepOutcome) -> None:
        """The report is written, and the launch is about to end."""

    def sweep_interrupted(self, reason: BaseException) -> None:
        """An exception, which may be `KeyboardInterrupt`, is about to end the launch."""


class Observers:
    """Observers in the order in which they are called."""

    def __init__(self, observers: Sequence[SweepObserver]) -> None:
        self._observers = list(observers)

    def before(self, observer: SweepObserver) -> Observers:
        """These observers and, before them, another."""
        return Observers([observer, *self._observers])

    def notify(self, hook: Callable[Concatenate[SweepObserver, P], None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Calls a method of `SweepObserver` on every observer, as in `notify(SweepObserver.computing_ended)`."""
        for observer in self._observers:
            getattr(observer, hook.__name__)(*args, **kwargs)


class LockCheck(SweepObserver):
    """Ends the launch when another launch has taken over the lock. It must be the first observer."""

    def __init__(self, lock: SweepLock) -> None:
        self._lock = lock

    def cell_progress(self, cell: Cell, progress: JobProgress) -> None:
        """Checks the lock."""
        self._lock.check()

    def cell_finished(self, cell: Cell, result: CellResult, attempts: int) -> None:
        """Checks the lock."""
        self._lock.check()

    def cell_failed(self, cell: Cell, reason: str, attempts: int) -> None:
        """Checks the lock."""
        self._lock.check()

    def sweep_ended(self, state: SweepState, outcome: SweepOutcome) -> None:
        """Checks the lock."""
        self._lock.check()


class OutOfTimeError(RuntimeError):
    """The launch has computed for as long as its file allows; finished cells are kept."""


class TimeLimit(SweepObserver):
    """Ends the launch when it has computed for so many minutes."""

    def __init__(self, minutes: float, now: Callable[[], float] = time.monotonic) -> None:
        self._minutes, self._now = minutes, now

    def computing_started(self, state: SweepState, expected: int, groups: int, dashboard: str | None = None) -> None:
        """Starts the clock."""
        self._deadline, self._state = self._now() + 60 * self._minutes, state

    def cell_progress(self, cell: Cell, progress: JobProgress) -> None:
        """Reads the clock."""
        self._check()

    def cell_finished(self, cell: Cell, result: CellResult, attempts: int) -> None:
        """Reads the clock."""
        self._check()

    def cell_failed(self, cell: Cell, reason: str, attempts: int) -> None:
        """Reads the clock."""
        self._check()

    def _check(self) -> None:
        if self._now() > self._deadline:
            computed = counted(self._state.computed, "cell")
            raise OutOfTimeError(f"max_minutes.sweep ({self._minutes:g}) is over after {computed}")


class StoreSync(SweepObserver):
    """Uploads what has changed in the local copy of a store; does nothing for a folder."""

    def __init__(self, folder: WorkingFolder, lock: SweepLock) -> None:
        self._folder, self._lock = folder, lock

    def wave_planned(self, wave: Wave, additional: int) -> None:
        """Uploads the studies: a search's trial has parameters that no other launch would draw again."""
        with suppress(StorageError):  # the next end of a cell tries again
            self._folder.save()

    def trial_stopped(self, cell: Cell, trial: StoppedTrial) -> None:
        """Uploads the studies."""
        self._folder.save()

    def cell_finished(self, cell: Cell, result: CellResult, attempts: int) -> None:
        """Uploads the studies."""
        self._folder.save()

    def cell_failed(self, cell: Cell, reason: str, attempts: int) -> None:
        """Uploads the studies."""
        self._folder.save()

    def sweep_ended(self, state: SweepState, outcome: SweepOutcome) -> None:
        """Uploads the report."""
        self._folder.save()

    def sweep_interrupted(self, reason: BaseException) -> None:
        """Uploads the studies, unless another launch has taken over."""
        with suppress(BadRequestError, StorageError):
            self._lock.check()
            self._folder.save()


class CellLog(SweepObserver, ABC):
    """Logs every finished cell whenever it is named: what receives it takes nothing twice.

    So a launch makes up for an earlier one that could not log, and the report's cells are all there.
    """

    def __init__(self, folder: WorkingFolder) -> None:
        self._folder = folder.path

    def cells_reused(self, results: Sequence[CellResult]) -> None:
        """Logs them."""
        for result in results:
            self._log(result, self._folder / "cells" / result.id)

    def cell_finished(self, cell: Cell, result: CellResult, attempts: int) -> None:
        """Logs the cell."""
        self.cells_reused([result])

    def report_started(self, state: SweepState) -> None:
        """Logs all cells that are known."""
        self.cells_reused(list(state.results.values()))

    @abstractmethod
    def _log(self, result: CellResult, folder: Path) -> None:
        """Logs the cell in `folder`, unless it is logged."""


class TrackerLog(CellLog):
    """Logs cells, while they train and when they end, and the report to MLflow."""

    def __init__(self, tracker: Tracker, folder: WorkingFolder) -> None:
        super().__init__(folder)
        self._tracker = tracker

    def cell_progress(self, cell: Cell, progress: JobProgress) -> None:
        """Starts the cell's run, and logs its loss."""
        self._tracker.log_progress(cell.id, cell.identity, progress.data)

    def cell_failed(self, cell: Cell, reason: str, attempts: int) -> None:
        """Ends the cell's run."""
        self._tracker.end_cell(cell.id, reason)

    def trial_stopped(self, cell: Cell, trial: StoppedTrial) -> None:
        """Ends the cell's run."""
        self._tracker.end_cell(cell.id, trial.sentence, "KILLED")

    def sweep_ended(self, state: SweepState, outcome: SweepOutcome) -> None:
        """Logs the report and ends the run of the sweep."""
        if outcome.report is not None:
            digest = hashlib.sha256("".join(sorted(state.results)).encode()).hexdigest()
            self._tracker.log_report(outcome.report.table, outcome.report.files.values(), digest)
        if outcome.stopped:
            self._tracker.tag_stopped(outcome.stopped_in_words)
        self._tracker.write_page(self._folder)
        self._tracker.close("FAILED" if outcome.failed else "FINISHED")

    def sweep_interrupted(self, reason: BaseException) -> None:
        """Ends the run of the sweep as killed."""
        self._tracker.close("KILLED", type(reason).__name__)

    def _log(self, result: CellResult, folder: Path) -> None:
        self._tracker.log_cell(result, folder)


class WriterLog(CellLog):
    """Sends cells to a tracker beside MLflow, while they train and when they end."""

    def __init__(self, writer: CellWriter, folder: WorkingFolder) -> None:
        super().__init__(folder)
        self._writer = writer

    def cell_progress(self, cell: Cell, progress: JobProgress) -> None:
        """Sends loss and validations."""
        self._writer.progress(cell.id, cell.identity, progress.data)

    def cell_failed(self, cell: Cell, reason: str, attempts: int) -> None:
        """Ends the cell's run."""
        self._writer.end(cell.id, failed=True)

    def trial_stopped(self, cell: Cell, trial: StoppedTrial) -> None:
        """Ends the cell's run."""
        self._writer.end(cell.id)

    def sweep_ended(self, state: SweepState, outcome: SweepOutcome) -> None:
        """Closes what is open."""
        self._writer.close()

    def sweep_interrupted(self, reason: BaseException) -> None:
        """Closes what is open."""
        self._writer.close()

    def _log(self, result: CellResult, folder: Path) -> None:
        self._writer.finish(result, folder)
