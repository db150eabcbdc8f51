"""The stages that Ray Tune and Optuna drive: the tune stage's fixed points, and the search of `mode: search`."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import optuna
import ray
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from adapad_ray.distributed import JobOutcome, JobProgress, WorkerPool
from adapad_ray.distributed.ray_internals import TUNE_ENVIRONMENT
from adapad_ray.errors import BadRequestError
from adapad_ray.quiet import quiet_optuna
from adapad_ray.results import CellResult
from adapad_ray.search.space import Space, parse_space, quasi_random_points, quasi_random_sampler
from adapad_ray.search.studies import SearchStudy

__all__ = ["SCORE", "Desk", "TuneCell", "quasi_random_points", "search_stage", "tune_stage"]

SCORE = "score"
"""Key of a job's value that the tune stage maximises: the validation metric."""


@dataclass(frozen=True)
class TuneCell:
    """One missing cell of the tune stage: a point of a label's list, and the job that evaluates it."""

    cell_id: str
    study: str
    """Name of its study, which is a label or a label at a budget."""
    point: Mapping[str, Any]
    payload: Mapping[str, Any]


def tune_stage(
    pool: WorkerPool,
    cells: Sequence[TuneCell],
    spaces: Mapping[str, Space],
    *,
    name: str,
    seed: int,
    on_event: Callable[[JobProgress | JobOutcome], None] | None = None,
    storage: optuna.storages.BaseStorage | None = None,
) -> dict[str, JobOutcome]:
    """Evaluate `cells` through Ray Tune, and return their outcomes by cell id.

    One `Tuner` runs all studies, so that no group idles while the last points of one finish. Its searcher deals the
    studies in turn and holds one `OptunaSearch` for each. A trial costs no CPU: it puts its cell into the pool's queue,
    waits, and reports `value["score"]`. A cell that fails, is lost, or has no finite score is a failed trial of its
    study, never a pruned one; the other trials go on.

    Args:
        pool: an open pool whose jobs return a dict with `score` (the validation metric, larger is better).
        cells: what is still to be computed.
        spaces: the search space of every study.
        name: of the sweep; studies are called `<name>/<study>`.
        seed: of the quasi-random sequence.
        on_event: called in this thread with the pool's news while the trials run.
        storage: where the studies are kept, a view for Optuna's dashboard; default: in memory. Nothing unfinished may
            be there (`align_study` sees to it).

    Raises:
        PoolError: the pool broke.
    """
    if not cells:
        return {}
    news = _News(pool, on_event)
    searcher = _PointSearch(cells, spaces, name, seed, storage)
    # One more than can run, so that a group finds its next cell in the queue.
    _run_tune(pool, searcher, news, f"{name}-tune", trials=len(cells), concurrency=pool.groups + 1)
    return news.collect([cell.cell_id for cell in cells])


class Desk(Protocol):
    """What a search asks of its sweep."""

    def prepare(self, label: str, point: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """A point's cell id, and the job that computes it. Raises `BadRequestError` where the cell cannot exist."""

    def result(self, cell_id: str) -> CellResult | None:
        """The cell's record, if it is finished."""

    def impossible(self, label: str, number: int, reason: str) -> None:
        """Trial `number` has failed without a cell."""


def search_stage(
    pool: WorkerPool,
    studies: Mapping[str, SearchStudy],
    desk: Desk,
    *,
    name: str,
    concurrency: int | None = None,
    on_event: Callable[[JobProgress | JobOutcome], None] | None = None,
) -> None:
    """Runs the trials that the studies (by label) still lack, labels in turn, through one Ray Tune `Tuner`.

    A trial whose configuration cannot be built, or diverges, has failed in its study. One whose cell is finished
    already takes its values from there. One that ends for a reason outside its configuration (its workers died in
    every attempt) stays open: the next launch takes it up again.

    Args:
        concurrency: trials at one time; default: one per worker group.

    Raises:
        PoolError: the pool broke.
    """
    remaining = sum(study.remaining for study in studies.values())
    if remaining:
        news = _News(pool, on_event)
        searcher = _StudySearch(studies, desk, news)
        _run_tune(pool, searcher, news, f"{name}-search", remaining, min(concurrency or pool.groups, pool.groups))


def _run_tune(pool: WorkerPool, searcher: Searcher, news: _News, name: str, trials: int, concurrency: int) -> None:
    """Runs Tune trials that cost no CPU: each puts its cell into the pool's queue and waits for it."""
    with tempfile.TemporaryDirectory(prefix="adapad-tune-", ignore_cleanup_errors=True) as folder, _quiet():
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_evaluate, queue=pool.queue), {"CPU": 0, "memory": 1024}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=trials,
                max_concurrent_trials=concurrency,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(name=name, storage_path=folder, verbose=0, callbacks=[news]),
        )
        try:
            tuner.fit()
        except tune.TuneError:
            if news.error is None:
                raise
        if news.error is not None:  # Tune swallows what the end of its last trial raises
            raise news.error


def _evaluate(config: dict[str, Any], *, queue: ray.actor.ActorHandle) -> None:
    """One trial: the cell's outcome, as Tune wants it."""
    outcome = ray.get(queue.submit_and_wait.remote(config["cell_id"], json.loads(config["payload"])))
    if outcome.status != "done":
        raise RuntimeError(f"cell {outcome.job_id} {outcome.status}: {outcome.error.type}: {outcome.error.message}")
    score = outcome.value[SCORE]
    if not math.isfinite(score):
        raise RuntimeError(f"cell {outcome.job_id} has score {score}")
    tune.report({SCORE: score})


class _PointSearch(Searcher):  # type: ignore[misc]
    """Deals the cells of all studies in turn, each study's through an `OptunaSearch` of its own."""

    def __init__(
        self,
        cells: Sequence[TuneCell],
        spaces: Mapping[str, Space],
        name: str,
        seed: int,
        storage: optuna.storages.BaseStorage | None,
    ) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._waiting: dict[str, deque[TuneCell]] = {}
        for cell in cells:
            self._waiting.setdefault(cell.study, deque()).append(cell)
        self._searches = {}
        for study, queue in self._waiting.items():
            self._searches[study] = OptunaSearch(
                parse_space(spaces[study]),
                metric=SCORE,
                mode="max",
                points_to_evaluate=[dict(cell.point) for cell in queue],
                sampler=quasi_random_sampler(seed),
                study_name=f"{name}/{study}",
                storage=storage,
            )
        self._turns = deque(self._searches)
        self._study_of: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next cell of the study whose turn it is."""
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

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A score is final, and told when its trial ends."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell its study; a trial without a score has failed."""
        scored = not error and result is not None and SCORE in result
        self._searches[self._study_of[trial_id]].on_trial_complete(trial_id, result if scored else None, not scored)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the record of truth is the finished cells, and no launch restores a Tune experiment."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called."""
        raise NotImplementedError("a sweep is resumed from its finished cells")


OF_THE_CONFIGURATION = ("BadRequestError", "BudgetTooSmallError", "DivergedError", "OutOfMemoryError")
"""Errors of a cell that it would meet again in every attempt."""


class _StudySearch(Searcher):  # type: ignore[misc]
    """Hands Tune the trials of all studies in turn, and tells the studies how they ended."""

    def __init__(self, studies: Mapping[str, SearchStudy], desk: Desk, news: _News) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._studies, self._desk, self._news = studies, desk, news
        self._turns = deque(studies)
        self._cell_of: dict[str, str] = {}
        self._waiting: dict[str, list[tuple[SearchStudy, int]]] = {}
        """Cell id → the trials that a running cell decides: more than one where the sampler repeats itself."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles the searcher into its folder; no launch reads that, and a sweep has no pickle."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial that has something to compute."""
        while self._turns:
            label = self._turns.popleft()
            study = self._studies[label]
            trial = study.take()
            if trial is None:
                continue
            self._turns.append(label)
            try:
                cell_id, payload = self._desk.prepare(label, trial.point)
            except BadRequestError as error:
                reason = f"{type(error).__name__}: {error}"
                study.fail(trial.number, reason)
                self._desk.impossible(label, trial.number, reason)
                continue
            if (result := self._desk.result(cell_id)) is not None:
                _complete(study, trial.number, result)
            elif cell_id in self._waiting:
                self._waiting[cell_id].append((study, trial.number))
            else:
                self._cell_of[trial_id], self._waiting[cell_id] = cell_id, [(study, trial.number)]
                return {"cell_id": cell_id, "payload": json.dumps(dict(payload)), "label": label, **trial.point}
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The values are told when the trial ends."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the studies: the values of the finished cell, or the failure of its configuration."""
        cell_id = self._cell_of.pop(trial_id, None)
        if cell_id is None:  # Tune calls again where the first call failed
            return
        outcome = self._news.outcome(cell_id)
        finished = self._desk.result(cell_id)
        for study, number in self._waiting.pop(cell_id):
            if finished is not None:
                _complete(study, number, finished)
            elif outcome is not None and outcome.error is not None and outcome.error.type in OF_THE_CONFIGURATION:
                study.fail(number, f"{outcome.error.type}: {outcome.error.message}")

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the studies and the finished cells are on disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called."""
        raise NotImplementedError("a search is resumed from its studies and finished cells")


def _complete(study: SearchStudy, number: int, result: CellResult) -> None:
    study.complete(number, result.score, result.final.parameters)


class _News(tune.Callback):  # type: ignore[misc]
    """Hands the pool's news to the driver between Tune's steps, because `fit` holds the main thread."""

    def __init__(self, pool: WorkerPool, on_event: Callable[[JobProgress | JobOutcome], None] | None) -> None:
        self._pool = pool
        self._on_event = on_event
        self._outcomes: dict[str, JobOutcome] = {}
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles the experiment into its folder; no launch reads that, and a driver's console has no pickle."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's hook."""
        self._forward(timeout=0.0)

    def outcome(self, cell_id: str) -> JobOutcome | None:
        """How a cell ended whose trial has ended; None if it never reached the queue."""
        self._forward(timeout=0.0)
        return self._outcomes.get(cell_id)

    def collect(self, cell_ids: Collection[str]) -> dict[str, JobOutcome]:
        """All outcomes, by cell id.

        Raises:
            RuntimeError: a trial ended before its cell reached the queue.
        """
        self._forward(timeout=0.0)
        for cell_id in cell_ids:
            if cell_id not in self._outcomes:
                raise RuntimeError(f"Ray Tune lost the trial of cell {cell_id}: launch the sweep again to compute it")
        return {cell_id: self._outcomes[cell_id] for cell_id in cell_ids}

    def _forward(self, timeout: float) -> None:
        """Hands on what is new. Tune wraps what is raised here, or swallows it: `error` keeps it for the next call."""
        if self.error is not None:
            raise self.error
        try:
            for event in self._pool.poll(timeout):
                if isinstance(event, JobOutcome):
                    self._outcomes[event.job_id] = event
                if self._on_event is not None:
                    self._on_event(event)
        except Exception as error:
            self.error = error
            raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Tune's and Optuna's talk on the console; failures are in the outcomes."""
    environment = {key: value for key, value in TUNE_ENVIRONMENT.items() if key not in os.environ}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    os.environ.update(environment)
    logger.setLevel(logging.CRITICAL)
    try:
        with quiet_optuna():
            yield
    finally:
        logger.setLevel(level)
        for key in environment:
            del os.environ[key]
