"""The worker pool: long-lived groups of Ray Train workers that take jobs from a queue.

A fresh `TorchTrainer` per job costs 13 to 28 s before the job's first step. A group that is kept pays that once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from adapad_ray.distributed.job_queue import JobQueue
from adapad_ray.distributed.jobs import JobOutcome, JobProgress, PoolError, SetupContext, WorkerConfig, reference
from adapad_ray.distributed.launcher import Launcher
from adapad_ray.distributed.ray_internals import TRAIN_ENVIRONMENT

_CLOSE_SECONDS = 3.0


class WorkerPool:
    """`groups` groups of `workers` workers each, which share one queue of jobs. A context manager.

    A group computes one job at a time, with all its workers. `setup` runs once in each worker process, and `run` once
    per job and rank with the value that `setup` returned. Both are module-level functions and are sent by name. An
    exception of `run` ends its job only. When a process dies, its group restarts and the job goes back to the queue, up
    to `max_attempts` starts in all. A group whose launcher died is built again.

    Each worker has `max(1, int(cpus_per_worker))` torch threads. A worker's current directory is not the driver's, so
    paths in payloads must be absolute.

    Args:
        setup: `setup(SetupContext) -> state`.
        run: `run(state, payload, JobContext) -> bytes | dict`; the job's value is that of rank 0.
        name: part of the names of actors and of Ray Train's runs.
        shared: objects that `setup` may fetch. The caller keeps the references, and so the objects, alive.
        max_attempts: starts of one job, after which it is `lost`.

    Raises:
        ValueError: workers cannot import `setup` or `run`.
    """

    def __init__(
        self,
        setup: Callable[[SetupContext], Any] | str,
        run: Callable[..., Any] | str,
        *,
        groups: int = 1,
        workers: int = 1,
        cpus_per_worker: float = 1.0,
        gpus_per_worker: float = 0.0,
        shared: Mapping[str, ray.ObjectRef] | None = None,
        max_attempts: int = 3,
        name: str = "pool",
    ) -> None:
        self.groups = groups
        self._name = f"adapad-{name}-{uuid.uuid4().hex[:4]}"
        self._settings: dict[str, Any] = {
            "workers": workers,
            "setup": reference(setup),
            "run": reference(run),
            "cpus": cpus_per_worker,
            "gpus": gpus_per_worker,
            "shared": dict(shared or {}),
        }
        self._workers = workers
        self._max_attempts = max_attempts
        self._acknowledged = 0

    def __enter__(self) -> WorkerPool:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._storage = tempfile.mkdtemp(prefix=f"{self._name}-")
        self._queue = (
            ray.remote(JobQueue)
            .options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here, name=f"{self._name}-queue")
            .remote(self.groups, self._workers, self._max_attempts)
        )
        users_environment = {key: value for key, value in os.environ.items() if key.startswith("RAY_TRAIN_")}
        options = {
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": -1,
            "scheduling_strategy": here,
            "runtime_env": {"env_vars": {**TRAIN_ENVIRONMENT, **users_environment}},
        }
        self._launchers, self._groups_alive = [], []
        for group in range(self.groups):
            name = f"{self._name}-group-{group}"
            config = WorkerConfig(queue=self._queue, group=group, **self._settings)
            launcher = ray.remote(Launcher).options(**options, name=f"{name}-launcher").remote()
            self._launchers.append(launcher)
            self._groups_alive.append(launcher.keep_alive.remote(config, name, self._storage))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def queue(self) -> ray.actor.ActorHandle:
        """The queue actor, for other processes of the driver's job: `submit_and_wait.remote(job_id, payload)`."""
        return self._queue

    def submit(self, job_id: str, payload: dict[str, Any]) -> None:
        """Queue a job.

        Raises:
            ValueError: a job of this id has not ended yet.
            PoolError: the pool is closed or broken.
        """
        self._call(self._queue.submit.remote(job_id, payload))

    def poll(self, timeout: float = 1.0) -> list[JobProgress | JobOutcome]:
        """Return the events since the last call, waiting up to `timeout` seconds for one.

        Raises:
            PoolError: the pool is broken, and all outcomes have been returned.
        """
        self._check_groups()
        events: list[JobProgress | JobOutcome]
        self._acknowledged, events = self._call(self._queue.poll.remote(self._acknowledged, timeout))
        return events

    def close(self) -> None:
        """End all groups and abandon their jobs. Further calls do nothing.

        A group that is still starting ends by itself once its workers are up: killing its launcher now would leave
        its resources reserved until the driver ends.
        """
        launchers, self._launchers = self._launchers, []
        if not launchers:
            return
        try:
            ray.get(self._queue.stop.remote(), timeout=_CLOSE_SECONDS)
            _, starting = ray.wait(self._groups_alive, num_returns=self.groups, timeout=_CLOSE_SECONDS)
        except (RayActorError, GetTimeoutError):
            starting = []  # the queue died, and the groups end with their launchers
        finally:
            shutil.rmtree(self._storage, ignore_errors=True)
        if not starting:
            for actor in [*launchers, self._queue]:
                ray.kill(actor)

    def _call(self, reply: ray.ObjectRef) -> Any:
        """Wait for a reply of the queue, and raise the queue's own errors."""
        try:
            return ray.get(reply)
        except RayTaskError as problem:
            raise problem.cause from None
        except RayActorError as problem:
            raise PoolError(f"the queue of the pool is gone: {problem}") from problem

    def _check_groups(self) -> None:
        ended, _ = ray.wait(self._groups_alive, num_returns=1, timeout=0)
        for group in ended:
            try:
                ray.get(group)
            except (RayTaskError, RayActorError) as problem:
                raise PoolError(f"a worker group cannot be kept alive: {problem}") from problem
