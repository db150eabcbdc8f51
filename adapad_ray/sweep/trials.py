"""The search of one launch: its studies, the cells of their trials, and the front that the curve trains again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from optuna.storages import BaseStorage

from adapad_ray.distributed import JobOutcome, JobProgress, WorkerPool
from adapad_ray.errors import BadRequestError, StorageError
from adapad_ray.report.search import SearchedLabel
from adapad_ray.results import CellResult
from adapad_ray.search.settings import SearchStage
from adapad_ray.search.studies import SearchStudy, search_name
from adapad_ray.search.tuner import search_stage
from adapad_ray.storage import WorkingFolder
from adapad_ray.sweep.cells import Cell, finished
from adapad_ray.sweep.console import Console
from adapad_ray.sweep.planner import PlannedCell, Planner, SweepPlan
from adapad_ray.sweep.spec import front_label


class SearchDesk:
    """Where Tune's searcher asks what a trial is, and the sweep what the search has found.

    Args:
        cells: the launch's cells by id; those of trials are added as they are handed out.
        payload: the job that computes a cell.
    """

    def __init__(
        self,
        stage: SearchStage,
        planner: Planner,
        storage: BaseStorage,
        place: WorkingFolder,
        cells: dict[str, Cell],
        payload: Callable[[Cell], Mapping[str, Any]],
        console: Console,
    ) -> None:
        self._stage, self._planner, self._place = stage, planner, place
        self._cells, self._payload, self._console = cells, payload, console
        self.studies: dict[str, SearchStudy] = {}
        """By label."""
        for label in planner.searched():
            space = planner.search_space(label)
            name = search_name(planner.spec.name, label, planner.search_origin(label).id, space, stage)
            self.studies[label] = SearchStudy(storage, name, space, stage)

    @property
    def over(self) -> bool:
        """Whether every trial has ended."""
        return all(study.over for study in self.studies.values())

    def run(self, pool: WorkerPool, on_event: Callable[[JobProgress | JobOutcome], None]) -> None:
        """Runs the trials that are missing."""
        name, concurrency = self._planner.spec.name, self._stage.concurrency
        search_stage(pool, self.studies, self, name=name, concurrency=concurrency, on_event=on_event)
        for label, study in self.studies.items():
            for trial in study.trials:
                if trial.state == "failed":  # a result of the search, and no cell that the sweep still lacks
                    with suppress(BadRequestError):
                        self._cells.pop(self._planner.search_cell(label, trial.point).id, None)

    def tried(self) -> list[PlannedCell]:
        """The cells of trials that have their values."""
        return [
            PlannedCell(self._planner.search_cell(label, trial.point), trial.point)
            for label, study in self.studies.items()
            for trial in study.trials
            if trial.state == "done"
        ]

    def front_wave(self, plan: SweepPlan) -> list[PlannedCell]:
        """The cells that train the fronts again; of a study that is not over there is no front yet."""
        over = {label: study for label, study in self.studies.items() if study.over}
        fronts = {label: [trial.point for trial in study.front()] for label, study in over.items()}
        return self._planner.front_wave(plan, fronts)

    def searched(self) -> list[SearchedLabel]:
        """What the report is to know."""
        return [
            SearchedLabel(label, study.name, self._stage.trials, front_label(label), [t.number for t in study.front()])
            for label, study in self.studies.items()
        ]

    def prepare(self, label: str, point: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """A point's cell id, and the job that computes it.

        Raises:
            BadRequestError: the cell cannot exist.
        """
        cell = self._planner.search_cell(label, point)
        self._cells[cell.id] = cell
        with suppress(StorageError):  # the next end of a cell says so
            self._place.save()  # the trial, whose parameters no other launch would draw again
        return cell.id, self._payload(cell)

    def result(self, cell_id: str) -> CellResult | None:
        """The record of a prepared cell, if it is finished."""
        return finished([self._cells[cell_id]], self._place.path).get(cell_id)

    def impossible(self, label: str, number: int, reason: str) -> None:
        """Trial `number` has failed without a cell."""
        self._console.say(f"search {label} trial {number} failed: {reason}")
        self._console.more(-1)
