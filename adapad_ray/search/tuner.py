"""Runs the trials of the tune stage and of `mode: search` through Ray Tune, one experiment for all studies."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import optuna
from ray import tune
from ray.tune.search import Searcher

from adapad_ray.distributed import JobOutcome, PoolEvent, WorkerPool
from adapad_ray.distributed.ray_internals import TUNE_ENVIRONMENT
from adapad_ray.quiet import quiet_optuna
from adapad_ray.search.pool_events import PoolEvents
from adapad_ray.search.searchers import StudySearcher, TrialCells, TuneSearcher, TuneStudy
from adapad_ray.search.studies import SearchStudy
from adapad_ray.search.trial import evaluate

EventListener = Callable[[PoolEvent], None]


def run_tune_trials(
    pool: WorkerPool,
    studies: Mapping[str, TuneStudy],
    *,
    name: str,
    jobs_at_once: int | None = None,
    on_event: EventListener | None = None,
    storage: optuna.storages.BaseStorage | None = None,
) -> dict[str, JobOutcome]:
    """Trains the missing cells of the tune stage, as far as their studies want; returns the last outcome by cell id.

    A cell that fails, is lost, or has no finite score is a failed trial of its study; the other trials continue. Only
    trials that are stopped early are pruned.

    Args:
        pool: an open pool whose jobs return a dict with `score` (larger is better), and `paused` if they are to go on.
        studies: by name within the sweep.
        name: of the sweep; studies are called `<name>/<study>`.
        jobs_at_once: cells that the pool computes side by side; default: one per group.
        on_event: called in this thread with the pool's events while the trials run.
        storage: of the studies; default: in memory. It must hold no unfinished trial (see `align_study`).

    Raises:
        PoolError: the pool broke.
    """
    if all(study.halving.over for study in studies.values()):
        return {}
    events = PoolEvents(pool, on_event)
    searcher = TuneSearcher(studies, events, name, storage)
    # One more than can run, so that a free group finds its next cell in the queue.
    at_once = (jobs_at_once or pool.groups) + 1
    _run_experiment(pool, searcher, events, f"{name}-tune", trials=-1, concurrency=at_once)
    return events.outcomes(searcher.taken)


def run_search_trials(
    pool: WorkerPool,
    studies: Mapping[str, SearchStudy],
    cells: TrialCells,
    *,
    name: str,
    concurrency: int | None = None,
    on_event: EventListener | None = None,
) -> None:
    """Runs the trials that the studies, by label, still lack.

    A trial whose configuration cannot be built, or diverges, has failed in its study. A trial whose cell is finished
    already takes its values from there. A trial that ends for another reason (its workers died in every attempt) stays
    open, and the next launch runs it again.

    Args:
        concurrency: trials at one time; default: one per worker group.

    Raises:
        PoolError: the pool broke.
    """
    remaining = sum(study.remaining for study in studies.values())
    if remaining:
        events = PoolEvents(pool, on_event)
        searcher = StudySearcher(studies, cells, events)
        at_once = min(concurrency or pool.groups, pool.groups)
        _run_experiment(pool, searcher, events, f"{name}-search", trials=remaining, concurrency=at_once)


def _run_experiment(
    pool: WorkerPool, searcher: Searcher, events: PoolEvents, name: str, *, trials: int, concurrency: int
) -> None:
    """Runs trials that cost no CPU: each puts its cell into the pool's queue and waits for it.

    Args:
        trials: how many; -1: until the searcher ends.
    """
    with tempfile.TemporaryDirectory(prefix="adapad-tune-", ignore_cleanup_errors=True) as folder, _quiet():
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(evaluate, queue=pool.queue), {"CPU": 0, "memory": 1024}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=trials,
                max_concurrent_trials=concurrency,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(name=name, storage_path=folder, verbose=0, callbacks=[events]),
        )
        try:
            tuner.fit()
        except tune.TuneError:
            if events.error is None:
                raise
        if events.error is not None:  # Tune swallows what a callback raises after the last trial
            raise events.error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the output of Tune and Optuna; outcomes hold the failures."""
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
