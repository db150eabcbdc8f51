"""Two search algorithms for Ray Tune: one runs the fixed points of the tune stage, the other the trials of a search.

Both serve several studies in turn, so that no worker group is idle while the last trials of one study run.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from adapad_ray.errors import BadRequestError
from adapad_ray.quiet import quiet_optuna
from adapad_ray.results import CellResult
from adapad_ray.search.halving import Halving
from adapad_ray.search.pool_events import PoolEvents
from adapad_ray.search.space import Space, parse_space
from adapad_ray.search.studies import SearchStudy
from adapad_ray.search.trial import PAUSED, SCORE

CONFIGURATION_ERRORS = ("BadRequestError", "BudgetTooSmallError", "DivergedError", "OutOfMemoryError")
"""Types of errors that would end a cell again in every attempt."""


@dataclass(frozen=True)
class TuneCell:
    """A cell of the tune stage that may have to train: a point of its study's list, and the job that evaluates it."""

    cell_id: str
    point: Mapping[str, Any]
    payload: Mapping[str, Any]
    pauses: tuple[int, ...] = ()
    """The optimizer step of every rung; none where the cell has no steps to pause at."""

    def pause_at(self, rung: int) -> int | None:
        """The step at which a training to this rung pauses; None: at its end."""
        return self.pauses[rung] if rung < len(self.pauses) else None


@dataclass(frozen=True)
class TuneStudy:
    """The trials of one label, or of one label at a budget."""

    space: Space
    cells: Mapping[str, TuneCell]
    """By id, those that are not finished."""
    halving: Halving


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


class TuneSearcher(_CellSearcher):
    """Runs the trials of the tune stage to their next rungs, and records each in its study.

    A trial of Ray Tune is the training of one cell from one rung to the next.

    Args:
        studies: by name within the sweep.
        events: where outcomes are read.
        name: of the sweep.
        storage: of the studies; None: in memory.
    """

    def __init__(
        self,
        studies: Mapping[str, TuneStudy],
        events: PoolEvents,
        name: str,
        storage: optuna.storages.BaseStorage | None,
    ) -> None:
        super().__init__()
        self._studies, self._events = studies, events
        with quiet_optuna():
            self._recorded = {
                study: optuna.create_study(
                    storage=storage, study_name=f"{name}/{study}", direction="maximize", load_if_exists=True
                )
                for study in studies
            }
        self._turns = deque(studies)
        self._running: dict[str, tuple[str, TuneCell]] = {}
        """Trial of Ray Tune → study and cell."""
        self._trials: dict[str, optuna.Trial] = {}
        """Cell → its open trial in Optuna."""
        self.taken: set[str] = set()
        """The cells that have been trained."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher into a folder that no launch reads."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The next cell of the next study; None while all that is left waits for others to arrive at a rung."""
        for _ in range(len(self._turns)):
            name = self._turns[0]
            self._turns.rotate(-1)
            study = self._studies[name]
            if (taken := study.halving.take()) is not None:
                cell = study.cells[taken[0]]
                self._running[trial_id] = name, cell
                self.taken.add(cell.cell_id)
                if cell.cell_id not in self._trials:
                    self._trials[cell.cell_id] = self._asked(name, cell.point)
                payload = {**cell.payload, "pause_at": cell.pause_at(taken[1])}
                return {**cell.point, "study": name, "cell_id": cell.cell_id, "payload": json.dumps(payload)}
        return None if self._running else Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Records what the trial has reached; a trial without a score has failed."""
        name, cell = self._running.pop(trial_id, ("", None))
        if cell is None:  # Tune calls again if the first call raised
            return
        outcome = self._events.outcome(cell.cell_id)
        study, trial = self._studies[name], self._trials[cell.cell_id]
        if outcome is not None and outcome.status == "done" and PAUSED in outcome.value:
            score = outcome.value[SCORE]
            if score is not None:
                trial.report(score, outcome.value[PAUSED])
            study.halving.arrive(cell.cell_id, score)
        elif error or result is None or SCORE not in result:
            self._tell(name, cell.cell_id, TrialState.FAIL)
            study.halving.fail(cell.cell_id)
        else:
            self._tell(name, cell.cell_id, TrialState.COMPLETE, result[SCORE])
            study.halving.finish(cell.cell_id)
        for stopped in self._trials.keys() & study.halving.stopped:
            self._tell(name, stopped, TrialState.PRUNED)

    def _tell(self, study: str, cell_id: str, state: TrialState, score: float | None = None) -> None:
        """Ends the cell's trial in Optuna."""
        self._recorded[study].tell(self._trials.pop(cell_id), score, state)

    def _asked(self, study: str, point: Mapping[str, Any]) -> optuna.Trial:
        """A trial in Optuna with these parameters."""
        recorded = self._recorded[study]
        recorded.enqueue_trial(dict(point))
        return recorded.ask(fixed_distributions=parse_space(self._studies[study].space))


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
