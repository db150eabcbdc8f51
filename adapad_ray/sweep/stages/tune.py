"""The tune stage: finds hyperparameters for each label, so that no method is judged with those of another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.storages import RDBStorage

from adapad_ray.distributed import JobOutcome, PoolEvent
from adapad_ray.search.searchers import TuneCell
from adapad_ray.search.space import parse_space
from adapad_ray.search.studies import align_study, open_storage
from adapad_ray.sweep.launch import Launch
from adapad_ray.sweep.observers import SweepState
from adapad_ray.sweep.planning.cells import PlannedCell, Results, Wave
from adapad_ray.sweep.planning.curve_cells import CurveCells
from adapad_ray.sweep.planning.tune_cells import TuneCells
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.sweep.stages.base import Stage


class Tune(Stage):
    """Trains every label at the same number of points, and keeps an Optuna study of them.

    The curve of a label starts as soon as the label is tuned, in groups that would otherwise be idle. The studies are a
    view of the finished cells and can be rebuilt at any time.
    """

    def __init__(self, spec: SweepSpec, cells: TuneCells, curve: CurveCells, folder: Path) -> None:
        assert spec.tune is not None
        self._spec, self._cells, self._curve, self._folder = spec, cells, curve, folder
        self._seed = spec.tune.seed

    def waves(self, results: Results) -> Iterator[Wave]:
        """Leaders before the labels that follow their compute, parents before the cells that cut them."""
        return self._cells.waves(results)

    def compute(self, launch: Launch, missing: Sequence[PlannedCell]) -> None:
        """Computes the missing cells: those of the stage as trials of their studies, parents as plain jobs."""
        if any(planned.stage == "parent" for planned in missing):
            launch.compute(missing)
            return
        self._align_studies(launch.state)
        study = self._cells.study
        launch.executor.run_tune_trials(
            [TuneCell(p.id, study(p), p.point, launch.job(p.cell)) for p in missing],
            {study(p): self._spec.tune_space(p.cell.identity.label) for p in missing},
            self._seed,
            self._storage,
            lambda event: self._on_event(launch, event),
        )

    def _on_event(self, launch: Launch, event: PoolEvent) -> None:
        """Records an event; where it ends the tuning of a label, starts the curve of that label."""
        launch.on_event(event)
        if not isinstance(event, JobOutcome):
            return
        state, ended = launch.state, launch.state.cells[event.job_id].identity
        if ended.stage != "tune":
            return
        tuned = self._cells.of_label(ended.label, state.results)
        if all(p.id in state.results or p.id in state.failures for p in tuned):
            winners = self._cells.winners_of(ended.label, state.results)
            launch.start_early(self._curve.independent(ended.label, winners))

    def finish(self, state: SweepState) -> None:
        """Brings the studies in line with the cells, which may have been computed by a killed launch."""
        self._align_studies(state)

    def _align_studies(self, state: SweepState) -> None:
        """Makes each study hold the finished cells and the failures of this launch, and nothing else."""
        for label in self._spec.labels():
            space = parse_space(self._spec.tune_space(label))
            studies: dict[str, list[tuple[Mapping[str, Any], float | None]]] = {}
            for planned in self._cells.of_label(label, state.results):
                points = studies.setdefault(self._cells.study(planned), [])
                if planned.id in state.results:
                    points.append((planned.point, state.results[planned.id].tuning_score))
                elif planned.id in state.failures:
                    points.append((planned.point, None))
            for study, points in studies.items():
                align_study(self._storage, f"{self._spec.name}/{study}", space, points)

    @cached_property
    def _storage(self) -> RDBStorage:
        return open_storage(self._folder)
