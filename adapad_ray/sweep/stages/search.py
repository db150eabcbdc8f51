"""The search: Optuna proposes budgets and hyperparameters together, label by label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from adapad_ray.errors import BadRequestError
from adapad_ray.report.inputs import SearchedLabel
from adapad_ray.results import CellResult
from adapad_ray.search.searchers import TrialCells
from adapad_ray.search.studies import SearchStudy, open_storage, search_name
from adapad_ray.sweep.launch import Launch
from adapad_ray.sweep.observers import SweepObserver
from adapad_ray.sweep.planning.cells import Cell, PlannedCell, Results, Wave
from adapad_ray.sweep.planning.plan import SweepPlan
from adapad_ray.sweep.planning.search_cells import SearchCells
from adapad_ray.sweep.spec import SweepSpec, front_label
from adapad_ray.sweep.stages.base import Stage


class Search(Stage):
    """Runs the trials that the labels' studies still lack; opens the studies in the sweep's folder."""

    def __init__(self, spec: SweepSpec, cells: SearchCells, plan: SweepPlan, folder: Path) -> None:
        assert spec.search is not None
        self._stage, self._cells, self._rows = spec.search, cells, plan.rows
        self._studies: dict[str, SearchStudy] = {}
        storage = open_storage(folder)
        for label in cells.labels:
            space = cells.space(label)
            name = search_name(spec.name, label, cells.reference_cell(label).id, space, self._stage)
            self._studies[label] = SearchStudy(storage, name, space, self._stage)

    @property
    def all_known(self) -> bool:
        """Whether every trial has ended."""
        return all(study.over for study in self._studies.values())

    def waves(self, results: Results) -> Iterator[Wave]:
        """One wave: the cells of the trials that have ended with values."""
        yield [
            PlannedCell(self._cells.trial_cell(label, trial.point), trial.point)
            for label, study in self._studies.items()
            for trial in study.trials
            if trial.state == "done"
        ]

    def run(self, launch: Launch) -> None:
        """Runs the trials that are missing, and computes cells of earlier trials whose folders were removed."""
        super().run(launch)
        cells = _TrialCells(self._cells, launch)
        launch.executor.run_search_trials(self._studies, cells, self._stage.concurrency, launch.on_event)
        self._forget_failed_trials(launch)
        super().run(launch)  # adds trials whose cells were finished before: the sampler may repeat a point

    def front_wave(self) -> Wave:
        """The cells that train the fronts again, of those searches that are over."""
        over = {label: study for label, study in self._studies.items() if study.over}
        fronts = {label: [trial.point for trial in study.front()] for label, study in over.items()}
        return self._cells.front_wave(self._rows, fronts)

    def searched(self) -> list[SearchedLabel]:
        """The searches that the report shows."""
        return [
            SearchedLabel(label, study.name, self._stage.trials, front_label(label), [t.number for t in study.front()])
            for label, study in self._studies.items()
        ]

    def _forget_failed_trials(self, launch: Launch) -> None:
        """Removes their cells from the launch: a failed trial is a result of the search, and no failed cell."""
        for label, study in self._studies.items():
            for trial in study.trials:
                if trial.state == "failed":
                    with suppress(BadRequestError):
                        launch.state.cells.pop(self._cells.trial_cell(label, trial.point).id, None)


class _TrialCells(TrialCells):
    """The cells of trials in one launch."""

    def __init__(self, cells: SearchCells, launch: Launch) -> None:
        self._cells, self._launch = cells, launch
        self._known: dict[str, Cell] = {}

    def job(self, label: str, point: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """Adds the trial's cell to the launch; its id and its job."""
        cell = self._known_as(self._cells.trial_cell(label, point))
        self._launch.state.cells[cell.id] = cell
        self._launch.observers.notify(SweepObserver.wave_planned, [PlannedCell(cell, point)], 0)
        return cell.id, self._launch.job(cell)

    def result(self, cell_id: str) -> CellResult | None:
        """The record of a trial's cell; None if it is not finished."""
        return self._launch.result(self._known[cell_id])

    def impossible(self, label: str, number: int, reason: str) -> None:
        """Tells the observers."""
        self._launch.observers.notify(SweepObserver.trial_failed, label, number, reason)

    def _known_as(self, cell: Cell) -> Cell:
        return self._known.setdefault(cell.id, cell)
