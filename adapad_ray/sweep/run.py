"""One launch of a sweep: computes the missing cells, stage by stage, and writes the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial

from adapad_ray.report.inputs import FailedCell, Gap
from adapad_ray.report.page import Report, build_report
from adapad_ray.storage import WorkingFolder
from adapad_ray.sweep.executor import Executor, ray_executor
from adapad_ray.sweep.folder import locked_folder, recorded_spec
from adapad_ray.sweep.inputs import load_inputs
from adapad_ray.sweep.launch import Launch, find_missing
from adapad_ray.sweep.lock import SweepLock
from adapad_ray.sweep.manifest import Manifest
from adapad_ray.sweep.observers import (
    LockCheck,
    Observers,
    StoreSync,
    SweepObserver,
    SweepOutcome,
    SweepState,
    TimeLimit,
    TrackerLog,
    Work,
    WriterLog,
)
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.cells import Wave
from adapad_ray.sweep.planning.plan import plan_sweep
from adapad_ray.sweep.precision import resolve_precision
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.sweep.stages import Stage, build_stages
from adapad_ray.sweep.sweep_metrics import SweepMetrics
from adapad_ray.tracking.cell_writer import CellWriter
from adapad_ray.tracking.tracker import Tracker
from adapad_ray.tracking.writers import open_writers

OpenExecutor = Callable[[int], AbstractContextManager[Executor]]
"""Opens an executor for so many cells."""


class Sweep:
    """One launch of a sweep.

    Making one loads the model and the data and plans the sweep; nothing is written.

    Args:
        folder: where results go.
        observers: listen to the launch, after those that every launch has.
        open_executor: where cells are computed; default: on Ray.

    Raises:
        BadRequestError: the sweep cannot be planned.
    """

    def __init__(
        self,
        spec: SweepSpec,
        folder: WorkingFolder,
        observers: Sequence[SweepObserver] = (),
        open_executor: OpenExecutor | None = None,
    ) -> None:
        recorded = recorded_spec(folder) or {}
        spec = spec.model_copy(update={"precision": resolve_precision(spec, recorded.get("precision"))})
        loaded = load_inputs(spec)
        self.spec, self.folder = spec, folder
        self.warnings = loaded.inputs.warnings
        self.cells = CellFactory(spec, loaded.inputs)
        self.plan = plan_sweep(self.cells)
        self._given_observers = observers
        self._open_executor = open_executor or partial(ray_executor, spec, loaded)

    def run(self) -> SweepOutcome:
        """Computes the missing cells and writes the report.

        Raises:
            BadRequestError: the request cannot be met, and nothing was started; or another launch has taken over.
            OutOfTimeError: `max_minutes.sweep` is over.
            StorageError: the store of a URL cannot be reached; finished cells are kept.
        """
        with locked_folder(self.folder, self.spec) as lock:
            tracker = Tracker.open(self.spec.tracking, self.spec.name, self.spec.name)
            tracker.log_adapters = self.spec.log_adapters
            writers = open_writers(
                self.folder.path, self.spec.name, tensorboard=self.spec.tensorboard, wandb=self.spec.wandb
            )
            observers = self._observers(lock, tracker, writers)
            try:
                stages = build_stages(self.cells, self.plan, self.folder.path)
                state, complete = self._known_state(stages)
                if complete:
                    observers.notify(SweepObserver.nothing_to_compute, len(state.results))
                else:
                    self._manifest(stages, state).save(self.folder.path)
                    state = self._compute(stages, observers)
                outcome = self._conclude(stages, state, observers, tracker)
            except BaseException as reason:
                observers.notify(SweepObserver.sweep_interrupted, reason)
                raise
            outcome.links = tracker.how_to_look
            for writer in writers:
                outcome.links |= writer.how_to_look
            return outcome

    def _observers(self, lock: SweepLock, tracker: Tracker, writers: Sequence[CellWriter]) -> Observers:
        minutes = self.spec.max_minutes.sweep
        return Observers(
            [
                LockCheck(lock),
                SweepMetrics(self.spec.name),
                TrackerLog(tracker, self.folder),
                *(WriterLog(writer, self.folder) for writer in writers),
                *self._given_observers,
                StoreSync(self.folder, lock),
                *([] if minutes is None else [TimeLimit(minutes)]),
            ]
        )

    def _known_state(self, stages: Sequence[Stage]) -> tuple[SweepState, bool]:
        """The cells that are known before any is computed with their results, and whether that is all of the sweep."""
        state, complete = SweepState(), True
        for stage in stages:
            complete = complete and stage.all_known
            for wave in stage.waves(state.results):
                if find_missing(wave, state, self.folder):
                    return state, False
        return state, complete

    def _compute(self, stages: Sequence[Stage], observers: Observers) -> SweepState:
        state = SweepState(mean_work=Work(self.plan.mean_lane_steps, self.cells.evaluation_passes("curve")))
        observers.notify(SweepObserver.data_read, self.cells.inputs.data.sizes)
        with self._open_executor(self.plan.cells) as executor:
            observers = observers.before(_ManifestLog(lambda: self._manifest(stages, state).save(self.folder.path)))
            launch = Launch(self.cells, self.folder, state, executor, observers)
            started = SweepObserver.computing_started
            observers.notify(started, state, self.plan.cells, executor.groups, executor.dashboard)
            try:
                for stage in stages:
                    stage.run(launch)
            finally:
                observers.notify(SweepObserver.computing_ended)
        return state

    def _conclude(
        self, stages: Sequence[Stage], state: SweepState, observers: Observers, tracker: Tracker
    ) -> SweepOutcome:
        for stage in stages:
            stage.finish(state)
        observers.notify(SweepObserver.report_started, state)
        failed = _failed_cells(state)
        manifest = self._manifest(stages, state, failed, tracker.comparison_url)
        manifest.save(self.folder.path)
        report: Report | None = None
        if any(result.identity.stage == "curve" for result in state.results.values()):
            report = build_report(self.folder.path, manifest.report_inputs())
        reused = len(state.results) - state.computed
        tuned = sum(result.identity.stage == "tune" for result in state.results.values())
        outcome = SweepOutcome(
            state.computed,
            reused,
            failed,
            report,
            manifest.gaps,
            stopped=manifest.stopped,
            trials=tuned + len(manifest.stopped),
        )
        observers.notify(SweepObserver.sweep_ended, state, outcome)
        return outcome

    def _manifest(
        self,
        stages: Sequence[Stage],
        state: SweepState,
        failed: Sequence[FailedCell] = (),
        mlflow: str = "",
    ) -> Manifest:
        return Manifest(
            title=self.spec.name,
            labels={id: cell.identity.label for id, cell in state.cells.items() if id not in state.stopped},
            gaps=[Gap(gap.label, gap.budget, gap.reason) for gap in self.plan.gaps],
            failed=list(failed),
            stopped=list(state.stopped.values()),
            cells=self.plan.cells,
            delta=self.spec.delta,
            mlflow=mlflow,
            searched=[searched for stage in stages for searched in stage.searched()],
            published=self.spec.published,
            splits=dict(self.cells.inputs.data.sizes),
            warnings=list(self.warnings),
            units=self.cells.units,
        )


class _ManifestLog(SweepObserver):
    """Records which cells belong to the sweep as they become known: its folder may hold others, of an earlier file."""

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save

    def wave_planned(self, wave: Wave, additional: int) -> None:
        """Writes the manifest."""
        self._save()


def _failed_cells(state: SweepState) -> list[FailedCell]:
    failed = []
    for cell in state.cells.values():
        if cell.id not in state.results and cell.id not in state.stopped:
            identity, reason = cell.identity, state.failures.get(cell.id, "not computed")
            if identity.stage == "parent":
                reason += "; the cells that would be cut from it are missing"
            failed.append(FailedCell(identity.label, identity.budget, identity.seed, reason))
    return failed
