"""The tune stage: finds hyperparameters for each label, so that no method is judged with those of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from optuna.storages import RDBStorage
from optuna.trial import TrialState

from adapad_ray.distributed import JobOutcome, PoolEvent
from adapad_ray.report.inputs import StoppedTrial
from adapad_ray.search.searchers import TuneCell, TuneStudy
from adapad_ray.search.space import parse_space
from adapad_ray.search.studies import TunedTrial, align_study, open_storage
from adapad_ray.sweep.launch import Launch
from adapad_ray.sweep.observers import SweepState
from adapad_ray.sweep.planning.cells import PlannedCell, Results, Wave
from adapad_ray.sweep.planning.curve_cells import CurveCells
from adapad_ray.sweep.planning.early_stopping import EarlyStopping
from adapad_ray.sweep.planning.tune_cells import TuneCells
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.sweep.stages.base import Stage


class Tune(Stage):
    """Trains every label at the same number of points, and keeps an Optuna study of them.

    The curve of a label starts as soon as the label is tuned, in groups that would otherwise be idle. The studies are a
    view of the finished cells and can be rebuilt at any time.
    """

    def __init__(
        self, spec: SweepSpec, cells: TuneCells, curve: CurveCells, stopping: EarlyStopping, folder: Path
    ) -> None:
        assert spec.tune is not None
        self._spec, self._cells, self._curve, self._folder = spec, cells, curve, folder
        self._stopping = stopping

    def waves(self, results: Results) -> Iterator[Wave]:
        """Leaders before the labels that follow their compute, parents before the cells that cut them.

        Trials that were stopped early are left out.
        """
        for wave in self._cells.waves(results):
            stopped = {id for label in {p.cell.identity.label for p in wave} for id in self._stopped(label, results)}
            yield [planned for planned in wave if planned.id not in stopped]

    def compute(self, launch: Launch, missing: Sequence[PlannedCell]) -> None:
        """Computes the missing cells: those of the stage as trials of their studies, parents as plain jobs."""
        if any(planned.stage == "parent" for planned in missing):
            launch.compute(missing)
            return
        self._align_studies(launch.state)
        wanted = {planned.id: planned for planned in missing}
        studies = {
            name: self._study(launch, study, wanted)
            for label in dict.fromkeys(planned.cell.identity.label for planned in missing)
            for name, study in self._studies(label, launch.state.results).items()
        }
        launch.executor.run_tune_trials(studies, self._storage, lambda event: self._on_event(launch, event))

    def _study(self, launch: Launch, study: Wave, missing: Mapping[str, PlannedCell]) -> TuneStudy:
        """A study with its missing cells, the longest first, and those that were stopped early."""
        state, stopping = launch.state, self._stopping
        known = {planned.id: planned for planned in study}
        ordered = [*(id for id in missing if id in known), *(id for id in known if id not in missing)]
        reached = {id for id in known if stopping.reached(known[id].cell)}
        available = (missing.keys() | state.results.keys() | reached) - state.failures.keys()
        unavailable = known.keys() - available

        def stop(id: str) -> None:
            launch.stop(known[id].cell, stopping.stopped_trial(known[id]))
            self._start_curve(launch, known[id].cell.identity.label)

        halving = stopping.halving([known[id] for id in ordered], state.results, unavailable, stop)
        for id in halving.stopped:  # by an earlier launch
            state.cells[id], state.stopped[id] = known[id].cell, stopping.stopped_trial(known[id])
        cells = {
            id: TuneCell(id, known[id].point, launch.job(known[id].cell), stopping.pauses(known[id].cell))
            for id in known.keys() - state.results.keys() - unavailable
        }
        return TuneStudy(self._spec.tune_space(study[0].cell.identity.label), cells, halving)

    def _on_event(self, launch: Launch, event: PoolEvent) -> None:
        """Records an event; where it ends the tuning of a label, starts the curve of that label."""
        launch.on_event(event)
        if isinstance(event, JobOutcome):
            ended = launch.state.cells[event.job_id].identity
            if ended.stage == "tune":
                self._start_curve(launch, ended.label)

    def _start_curve(self, launch: Launch, label: str) -> None:
        """Starts the curve of a label if the label is tuned."""
        state = launch.state
        tuned = self._cells.of_label(label, state.results)
        if all(p.id in state.results or p.id in state.failures or p.id in state.stopped for p in tuned):
            winners = self._cells.winners_of(label, state.results)
            launch.start_early(self._curve.independent(label, winners))

    def finish(self, state: SweepState) -> None:
        """Brings the studies in line with the cells, which may have been computed by a killed launch."""
        in_order: dict[str, StoppedTrial] = {}
        for label in self._spec.labels():
            stopped = self._stopped(label, state.results)
            state.stopped.update({id: trial for id, trial in stopped.items() if id not in state.failures})
            tuned = self._cells.of_label(label, state.results)
            in_order |= {p.id: state.stopped[p.id] for p in tuned if p.id in state.stopped}
        state.stopped = in_order  # that of the plan, whichever launch stopped them
        self._align_studies(state)

    def _studies(self, label: str, results: Results) -> dict[str, Wave]:
        """The trials of a label by study."""
        studies: dict[str, Wave] = {}
        for planned in self._cells.of_label(label, results):
            studies.setdefault(self._cells.study(planned), []).append(planned)
        return studies

    def _stopped(self, label: str, results: Results) -> dict[str, StoppedTrial]:
        """The trials of a label that were stopped early, by cell."""
        stopped: dict[str, StoppedTrial] = {}
        for study in self._studies(label, results).values():
            ids = self._stopping.halving(study, results).stopped
            stopped |= {p.id: self._stopping.stopped_trial(p) for p in study if p.id in ids}
        return stopped

    def _align_studies(self, state: SweepState) -> None:
        """Makes each study hold the finished and stopped cells and the failures of this launch, and nothing else."""
        for label in self._spec.labels():
            space = parse_space(self._spec.tune_space(label))
            for name, study in self._studies(label, state.results).items():
                ended = [trial for planned in study if (trial := self._ended(planned, state)) is not None]
                align_study(self._storage, f"{self._spec.name}/{name}", space, ended)

    def _ended(self, planned: PlannedCell, state: SweepState) -> TunedTrial | None:
        rungs = {rung.step: rung.score for rung in self._stopping.reached(planned.cell) if rung.score is not None}
        if planned.id in state.results:
            score = state.results[planned.id].tuning_score
            return TunedTrial(planned.point, TrialState.COMPLETE, score, rungs)
        if planned.id in state.failures:
            return TunedTrial(planned.point, TrialState.FAIL, None, rungs)
        if planned.id in state.stopped:
            return TunedTrial(planned.point, TrialState.PRUNED, list(rungs.values())[-1] if rungs else None, rungs)
        return None

    @cached_property
    def _storage(self) -> RDBStorage:
        return open_storage(self._folder)
