"""The tune stage: Ray Tune and Optuna evaluate the same number of quasi-random points for every method."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from adapad_ray.distributed import GroupPool, Outcome, Progress
from adapad_ray.sweep.points import Space, parse_space, quasi_random_points, quasi_random_sampler, quiet_optuna

__all__ = ["SCORE", "TuneCell", "quasi_random_points", "tune_stage"]

SCORE = "score"
"""Key of a job's value that the tune stage maximises: the validation metric."""


@dataclass(frozen=True)
class TuneCell:
    """One missing cell of the tune stage: a point of a label's list, and the job that evaluates it."""

    cell_id: str
    label: str
    """Key of `methods`; cells of one label share a study."""
    point: Mapping[str, Any]
    payload: Mapping[str, Any]


def tune_stage(
    pool: GroupPool,
    cells: Sequence[TuneCell],
    spaces: Mapping[str, Space],
    *,
    name: str,
    seed: int,
    on_event: Callable[[Progress | Outcome], None] | None = None,
    storage: optuna.storages.BaseStorage | None = None,
) -> dict[str, Outcome]:
    """Evaluate `cells` through Ray Tune, and return their outcomes by cell id.

    One `Tuner` runs all labels, so that no group idles while the last points of a label finish. Its searcher deals the
    labels in turn and holds one `OptunaSearch`, and so one study, per label. A trial costs no CPU: it puts its cell
    into the pool's queue, waits, and reports `value["score"]`. A cell that fails, is lost, or has no finite score is
    a failed trial of its study, never a pruned one; the other trials go on.

    Args:
        pool: an open pool whose jobs return a dict with `score` (the validation metric, larger is better).
        cells: what is still to be computed.
        spaces: the search space of every label.
        name: of the sweep; studies are called `<name>/<label>`.
        seed: of the quasi-random sequence.
        on_event: called in this thread with the pool's news while the trials run.
        storage: where the studies are kept, a view for Optuna's dashboard; default: in memory. Trials that a killed
            driver left unfinished there are marked failed.

    Raises:
        PoolError: the pool broke.
    """
    if not cells:
        return {}
    news = _News(pool, on_event)
    with tempfile.TemporaryDirectory(prefix="adapad-tune-", ignore_cleanup_errors=True) as folder, _quiet():
        payloads = {cell.cell_id: dict(cell.payload) for cell in cells}
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_evaluate, queue=pool.queue, payloads=payloads), {"CPU": 0, "memory": 1024}
            ),
            tune_config=tune.TuneConfig(
                search_alg=_LabelSearch(cells, spaces, name, seed, storage),
                num_samples=len(cells),
                # One more than can run, so that a group finds its next cell in the queue.
                max_concurrent_trials=pool.groups + 1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name=f"{name}-tune", storage_path=folder, verbose=0, callbacks=[news]),
        )
        try:
            tuner.fit()
        except tune.TuneError:
            if news.error is not None:
                raise news.error from None
            raise
    return news.collect(payloads)


def _evaluate(config: dict[str, Any], *, queue: ray.actor.ActorHandle, payloads: dict[str, dict[str, Any]]) -> None:
    """One trial: the cell's outcome, as Tune wants it."""
    outcome = ray.get(queue.submit_and_wait.remote(config["cell_id"], payloads[config["cell_id"]]))
    if outcome.status != "done":
        raise RuntimeError(f"cell {outcome.job_id} {outcome.status}: {outcome.error.type}: {outcome.error.message}")
    score = outcome.value[SCORE]
    if not math.isfinite(score):
        raise RuntimeError(f"cell {outcome.job_id} has score {score}")
    tune.report({SCORE: score})


class _LabelSearch(Searcher):  # type: ignore[misc]
    """Deals the cells of all labels in turn, each label's through an `OptunaSearch` of its own."""

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
            self._waiting.setdefault(cell.label, deque()).append(cell)
        self._searches = {}
        for label, queue in self._waiting.items():
            study_name = f"{name}/{label}"
            if storage is not None:
                _fail_unfinished(storage, study_name)
            self._searches[label] = OptunaSearch(
                parse_space(spaces[label]),
                metric=SCORE,
                mode="max",
                points_to_evaluate=[dict(cell.point) for cell in queue],
                sampler=quasi_random_sampler(seed),
                study_name=study_name,
                storage=storage,
            )
        self._turns = deque(self._searches)
        self._label_of: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next cell of the label whose turn it is."""
        if not self._turns:
            return Searcher.FINISHED
        label = self._turns.popleft()
        cell = self._waiting[label].popleft()
        if self._waiting[label]:
            self._turns.append(label)
        point = self._searches[label].suggest(trial_id)
        if point != dict(cell.point):
            raise RuntimeError(f"Optuna suggests {point} for cell {cell.cell_id}, whose point is {dict(cell.point)}")
        self._label_of[trial_id] = label
        return {**cell.point, "label": label, "cell_id": cell.cell_id}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A score is final, and told when its trial ends."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the label's study; a trial without a score has failed."""
        scored = not error and result is not None and SCORE in result
        self._searches[self._label_of[trial_id]].on_trial_complete(trial_id, result if scored else None, not scored)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the record of truth is the finished cells, and no launch restores a Tune experiment."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called."""
        raise NotImplementedError("a sweep is resumed from its finished cells")


def _fail_unfinished(storage: optuna.storages.BaseStorage, study_name: str) -> None:
    """Give the trials that a killed driver left behind an end; what was only enqueued would be suggested again."""
    if study_name not in (study.study_name for study in optuna.get_all_study_summaries(storage)):
        return
    study = optuna.load_study(study_name=study_name, storage=storage)
    unfinished = (optuna.trial.TrialState.RUNNING, optuna.trial.TrialState.WAITING)
    for trial in study.get_trials(deepcopy=False, states=unfinished):
        storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)


class _News(tune.Callback):  # type: ignore[misc]
    """Hands the pool's news to the driver between Tune's steps, because `fit` holds the main thread."""

    def __init__(self, pool: GroupPool, on_event: Callable[[Progress | Outcome], None] | None) -> None:
        self._pool = pool
        self._on_event = on_event
        self._outcomes: dict[str, Outcome] = {}
        self.error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles the experiment into its folder; no launch reads that, and a driver's console has no pickle."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tune's hook. Tune wraps what is raised here; `error` keeps the original."""
        try:
            self._forward(timeout=0.0)
        except Exception as error:
            self.error = error
            raise

    def collect(self, cell_ids: Collection[str]) -> dict[str, Outcome]:
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
        for event in self._pool.poll(timeout):
            if isinstance(event, Outcome):
                self._outcomes[event.job_id] = event
            if self._on_event is not None:
                self._on_event(event)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Tune's and Optuna's talk on the console; failures are in the outcomes."""
    # Ctrl-C is to be a KeyboardInterrupt here too, not a request to wind up an experiment.
    # verbose=0 is silent in the old output only.
    environment = {"TUNE_DISABLE_SIGINT_HANDLER": "1", "TUNE_PRINT_ALL_TRIAL_ERRORS": "0", "RAY_AIR_NEW_OUTPUT": "0"}
    environment = {key: value for key, value in environment.items() if key not in os.environ}
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
