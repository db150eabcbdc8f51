"""Where the cells of a launch are computed: an interface, and worker groups on Ray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
import ray

from adapad_ray.distributed import (
    JobOutcome,
    PoolEvent,
    WorkerPool,
    WorkerRequest,
    available_groups,
    connect,
    dashboard_address,
    visible_gpus,
)
from adapad_ray.distributed.cell_jobs import compute, compute_together, open_workspace
from adapad_ray.distributed.shared_backbone import offered_backbone
from adapad_ray.search.searchers import TrialCells, TuneStudy
from adapad_ray.search.studies import SearchStudy
from adapad_ray.search.tuner import run_search_trials, run_tune_trials
from adapad_ray.sweep.inputs import LoadedInputs
from adapad_ray.sweep.planning.packing import most_cells
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.wording import counted

EventListener = Callable[[PoolEvent], None]


class Executor(ABC):
    """Computes jobs and passes their events to a listener, in the calling thread.

    A job is computed when its cell's folder holds a result. Its outcome is the last event of a job; its failure is an
    outcome too, and no exception.
    """

    groups: int
    """Jobs that run side by side."""
    dashboard: str | None = None
    """Address of a page that shows the processes; None without one."""

    @abstractmethod
    def run_jobs(self, jobs: Mapping[str, dict[str, Any]], on_event: EventListener) -> None:
        """Computes jobs, by cell id, and returns when all have ended."""

    @abstractmethod
    def start_jobs(self, jobs: Mapping[str, dict[str, Any]], on_event: EventListener) -> None:
        """Has jobs computed while nothing else waits for a group.

        Their events go to the listener of the calls that follow, or to this one; a later `run_jobs` with some of them
        waits for those and does not compute them again.
        """

    @abstractmethod
    def run_tune_trials(
        self, studies: Mapping[str, TuneStudy], storage: optuna.storages.BaseStorage, on_event: EventListener
    ) -> None:
        """Computes cells of the tune stage, each as a trial of its study, as far as its study wants."""

    @abstractmethod
    def run_search_trials(
        self,
        studies: Mapping[str, SearchStudy],
        cells: TrialCells,
        concurrency: int | None,
        on_event: EventListener,
    ) -> None:
        """Computes the trials that the studies, by label, still lack."""


class RayExecutor(Executor):
    """Worker groups on Ray; trials run through Ray Tune.

    Args:
        jobs_per_group: most cells that a group computes together.
    """

    def __init__(self, pool: WorkerPool, name: str, jobs_per_group: int = 1) -> None:
        self.groups, self.dashboard = pool.groups, dashboard_address()
        self._jobs_at_once = pool.groups * jobs_per_group
        self._pool, self._name = pool, name
        self._started: set[str] = set()
        """Jobs of `start_jobs` that have not ended."""

    def run_jobs(self, jobs: Mapping[str, dict[str, Any]], on_event: EventListener) -> None:
        """Puts all jobs into the pool's queue."""
        for cell_id, payload in jobs.items():
            if cell_id not in self._started:
                self._pool.submit(cell_id, payload)
        remaining, listener = set(jobs), self._passing(on_event)
        while remaining:
            for event in self._pool.poll(timeout=1.0):
                listener(event)
                if isinstance(event, JobOutcome):
                    remaining.discard(event.job_id)

    def start_jobs(self, jobs: Mapping[str, dict[str, Any]], on_event: EventListener) -> None:
        """Puts the jobs into the background of the pool's queue."""
        for cell_id, payload in jobs.items():
            self._pool.submit(cell_id, payload, background=True)
            self._started.add(cell_id)

    def _passing(self, on_event: EventListener) -> EventListener:
        """The listener, which also notes the ends of jobs of `start_jobs`."""

        def listen(event: PoolEvent) -> None:
            if isinstance(event, JobOutcome):
                self._started.discard(event.job_id)
            on_event(event)

        return listen

    def run_tune_trials(
        self, studies: Mapping[str, TuneStudy], storage: optuna.storages.BaseStorage, on_event: EventListener
    ) -> None:
        """Runs one Ray Tune experiment for all studies."""
        listener = self._passing(on_event)
        run_tune_trials(
            self._pool,
            studies,
            name=self._name,
            jobs_at_once=self._jobs_at_once,
            on_event=listener,
            storage=storage,
        )

    def run_search_trials(
        self,
        studies: Mapping[str, SearchStudy],
        cells: TrialCells,
        concurrency: int | None,
        on_event: EventListener,
    ) -> None:
        """Runs one Ray Tune experiment for all studies."""
        run_search_trials(self._pool, studies, cells, name=self._name, concurrency=concurrency, on_event=on_event)


@contextmanager
def ray_executor(spec: SweepSpec, loaded: LoadedInputs, cells: int) -> Iterator[Executor]:
    """Opens worker groups on the Ray cluster, at most `cells`, with the data in the object store.

    Raises:
        BadRequestError: the cluster has no room for one group, or does not answer.
    """
    resources = spec.resources
    request = WorkerRequest(
        resources.cpus_per_worker,
        resources.gpus_per_worker,
        int(resources.memory_per_worker * 1e9),
        resources.accelerator_type,
        resources.node_labels,
    )
    with connect():
        groups = available_groups(resources.workers, request, resources.max_groups)
        groups = min(groups, cells)
        processes, on_gpus = groups * resources.workers, resources.gpus_per_worker > 0
        with (
            offered_backbone(loaded.recipe, processes, on_gpus=on_gpus) as offered,
            WorkerPool(
                open_workspace,
                compute,
                groups=groups,
                workers=resources.workers,
                request=request,
                shared={"backbone": ray.put(offered), "data": ray.put(loaded.inputs.data)},
                max_attempts=spec.max_attempts,
                name=spec.name,
                run_together=compute_together,
            ) as pool,
        ):
            yield RayExecutor(pool, spec.name, most_cells(resources))


def unused_gpus(spec: SweepSpec) -> str | None:
    """Return a sentence about GPUs that the sweep leaves idle though its file does not say so; None without any.

    Raises:
        BadRequestError: no cluster answers at `RAY_ADDRESS`.
    """
    if "gpus_per_worker" in spec.resources.model_fields_set:
        return None
    gpus = visible_gpus()
    if not gpus:
        return None
    verb = "is" if gpus == 1 else "are"
    return (
        f"{counted(gpus, 'GPU')} {verb} visible, but the file requests none: cells train on CPUs. To use GPUs, add "
        "resources.gpus_per_worker=auto"
    )
