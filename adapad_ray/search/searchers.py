"""Two search algorithms for Ray Tune: one runs fixed points, the other the trials of durable Optuna studies.

Both serve several studies in turn, so that no worker group is idle while the last trials of one study run.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from adapad_ray.errors import BadRequestError
from adapad_ray.quiet import quiet_optuna
from adapad_ray.results import CellResult
from adapad_ray.search.pool_events import PoolEvents
from adapad_ray.search.space import Space, parse_space, quasi_random_sampler
from adapad_ray.search.studies import SearchStudy
from adapad_ray.search.trial import SCORE

CONFIGURATION_ERRORS = ("BadRequestError", "BudgetTooSmallError", "DivergedError", "OutOfMemoryError")
"""Types of errors that would end a cell again in every attempt."""


@dataclass(frozen=True)
class TuneCell:
    """One missing cell of the tune stage: a point of its study's list, and the job that evaluates it."""

    cell_id: str
    study: str
    """Name within the sweep: a label, or a label at a budget."""
    point: Mapping[str, Any]
    payload: Mapping[str, Any]


class TrialCells(Protocol):
    """The cells of a search's trials."""

    def job(self, label: str, point: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """A point's cell id, and the job that computes it.

        Raises:
            BadRequestError: the cell cannot exist.
        """

    def result(self, cell_id: str) -> CellResult | None:
        """The cell's record; None if it is not finished."""

    def impossible(self, label: str, number: int, reason: str) -> None:
        """Called when trial `number` has failed because its cell cannot exist."""


class _CellSearcher(Searcher):  # type: ignore[misc]
    """A searcher that is not restored: finished cells and studies are on disk, and no launch reads Tune's folder."""

    def __init__(self) -> None:
        super().__init__(metric=SCORE, mode="max")

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Does nothing: a trial reports once, right before it ends."""

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called."""
        raise NotImplementedError("a sweep resumes from its finished cells and studies")


class FixedPointsSearcher(_CellSearcher):
    """Runs the cells of the tune stage, and records each as a trial of its study.

    Args:
        cells: what is missing.
        spaces: the search space of every study.
        name: of the sweep.
        seed: of the quasi-random sequence.
        storage: of the studies; None: in memory.
    """

    def __init__(
        self,
        cells: Sequence[TuneCell],
        spaces: Mapping[str, Space],
        name: str,
        seed: int,
        storage: optuna.storages.BaseStorage | None,
    ) -> None:
        super().__init__()
        self._waiting: dict[str, deque[TuneCell]] = {}
        for cell in cells:
            self._waiting.setdefault(cell.study, deque()).append(cell)
        with quiet_optuna():
            self._searches = {
                study: OptunaSearch(
                    parse_space(spaces[study]),
                    metric=SCORE,
                    mode="max",
                    points_to_evaluate=[dict(cell.point) for cell in queue],
                    sampler=quasi_random_sampler(seed),
                    study_name=f"{name}/{study}",
                    storage=storage,
                )
                for study, queue in self._waiting.items()
            }
        self._turns = deque(self._searches)
        self._study_of: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next cell of the next study."""
        if not self._turns:
            return Searcher.FINISHED
        study = self._turns.popleft()
        cell = self._waiting[study].popleft()
        if self._waiting[study]:
            self._turns.append(study)
        point = self._searches[study].suggest(trial_id)
        if point != dict(cell.point):
            raise RuntimeError(f"Optuna suggests {point} for cell {cell.cell_id}, whose point is {dict(cell.point)}")
        self._study_of[trial_id] = study
        return {**cell.point, "study": study, "cell_id": cell.cell_id, "payload": json.dumps(dict(cell.payload))}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Records the trial in its study; a trial without a score has failed."""
        scored = not error and result is not None and SCORE in result
        self._searches[self._study_of[trial_id]].on_trial_complete(trial_id, result if scored else None, not scored)


class StudySearcher(_CellSearcher):
    """Runs the trials that the studies of a search, by label, still lack."""

    def __init__(self, studies: Mapping[str, SearchStudy], cells: TrialCells, events: PoolEvents) -> None:
        super().__init__()
        self._studies, self._cells, self._events = studies, cells, events
        self._turns = deque(studies)
        self._cell_of: dict[str, str] = {}
        self._waiting: dict[str, list[tuple[SearchStudy, int]]] = {}
        """Running cell → the trials that wait for it: several if the sampler repeats a point."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher into a folder that no launch reads."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial whose cell must be computed; trials of finished or impossible cells end here."""
        while self._turns:
            label = self._turns.popleft()
            study = self._studies[label]
            trial = study.take()
            if trial is None:
                continue
            self._turns.append(label)
            try:
                cell_id, payload = self._cells.job(label, trial.point)
            except BadRequestError as error:
                reason = f"{type(error).__name__}: {error}"
                study.fail(trial.number, reason)
                self._cells.impossible(label, trial.number, reason)
                continue
            if (result := self._cells.result(cell_id)) is not None:
                _complete(study, trial.number, result)
            elif cell_id in self._waiting:
                self._waiting[cell_id].append((study, trial.number))
            else:
                self._cell_of[trial_id], self._waiting[cell_id] = cell_id, [(study, trial.number)]
                return {"cell_id": cell_id, "payload": json.dumps(dict(payload)), "label": label, **trial.point}
        return Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Records the values of the finished cell, or its failure, in the studies that wait for it."""
        cell_id = self._cell_of.pop(trial_id, None)
        if cell_id is None:  # Tune calls again if the first call raised
            return
        outcome = self._events.outcome(cell_id)
        finished = self._cells.result(cell_id)
        for study, number in self._waiting.pop(cell_id):
            if finished is not None:
                _complete(study, number, finished)
            elif outcome is not None and outcome.error is not None and outcome.error.type in CONFIGURATION_ERRORS:
                study.fail(number, f"{outcome.error.type}: {outcome.error.message}")


def _complete(study: SearchStudy, number: int, result: CellResult) -> None:
    study.complete(number, result.score, result.final.parameters)
