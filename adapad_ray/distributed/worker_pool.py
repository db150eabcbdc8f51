"""The worker pool: long-lived worker groups that take jobs from a queue.

New processes per job cost seconds before the job's first step. A group that is kept pays that once.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from adapad_ray.distributed.capacity import WorkerRequest
from adapad_ray.distributed.groups.actor_group import ActorGroup
from adapad_ray.distributed.groups.train_group import TrainGroup
from adapad_ray.distributed.groups.worker_group import WorkerGroup
from adapad_ray.distributed.job_queue import JobQueue
from adapad_ray.distributed.jobs import PoolError, PoolEvent, SetupContext, WorkerSettings, reference

_CLOSE_SECONDS = 3.0


class WorkerPool:
    """`groups` groups of `workers` workers each, which share one queue of jobs. A context manager.

    A group computes one job at a time, with all its workers, or several that can be computed together. One worker is an
    actor; several are run by Ray Train. `setup` runs once in each worker process, and `run` once per job and rank with
    the value that `setup` returned. Both are module-level functions and are sent by name. An exception of `run` ends
    its job only. When a process dies, its group restarts and the job goes back to the queue, up to `max_attempts`
    starts in all. A group whose set-up raises, or which dies `max_attempts` times in a row before it is set up, is
    retired. A group that has had no work for `idle_seconds` is ended, and started again for new jobs.

    Each worker has `max(1, int(request.cpus))` torch threads. A worker's current directory is not the driver's, so
    paths in payloads must be absolute.

    Args:
        setup: `setup(SetupContext) -> state`.
        run: `run(state, payload, JobContext) -> bytes | dict`; the job's value is that of rank 0.
        run_together: `run_together(state, payloads, contexts, answer)`, which computes several jobs at once, by id, and
            calls `answer(job_id, value or exception)` when one has ended. Only for groups of one worker, and for jobs
            with a `company` in their payload.
        name: part of the names of actors and of Ray Train's runs.
        idle_seconds: the time after which the resources of a group without work are returned.
        request: what each worker gets.
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
        request: WorkerRequest | None = None,
        shared: Mapping[str, ray.ObjectRef] | None = None,
        max_attempts: int = 3,
        name: str = "pool",
        idle_seconds: float = 40.0,
        run_together: Callable[..., None] | str | None = None,
    ) -> None:
        self.groups = groups
        self._name = f"adapad-{name}-{uuid.uuid4().hex[:4]}"
        settings = WorkerSettings(
            workers,
            reference(setup),
            reference(run),
            request or WorkerRequest(),
            dict(shared or {}),
            None if run_together is None else reference(run_together),
        )
        self._groups = [_group(settings) for _ in range(groups)]
        self._max_attempts, self._idle_seconds = max_attempts, idle_seconds
        self._acknowledged = 0
        self._open = False

    def __enter__(self) -> WorkerPool:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._queue = (
            ray.remote(JobQueue)
            .options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here, name=f"{self._name}-queue")
            .remote(self._groups, self._max_attempts, self._idle_seconds)
        )
        self._open = True
        self._queue.open.remote(f"{self._name}-group")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def queue(self) -> ray.actor.ActorHandle:
        """The queue actor, for other processes of the driver's job: `submit_and_wait.remote(job_id, payload)`."""
        return self._queue

    def submit(self, job_id: str, payload: dict[str, Any], *, background: bool = False) -> None:
        """Queue a job.

        Args:
            background: whether it waits until no other job does.

        Raises:
            ValueError: a job of this id has not ended yet.
            PoolError: the pool is closed or broken.
        """
        self._call(self._queue.submit.remote(job_id, payload, background))

    def poll(self, timeout: float = 1.0) -> list[PoolEvent]:
        """Return the events since the last call, waiting up to `timeout` seconds for one.

        Raises:
            PoolError: the pool is broken, and all outcomes have been returned.
        """
        events: list[PoolEvent]
        self._acknowledged, events = self._call(self._queue.poll.remote(self._acknowledged, timeout))
        return events

    def close(self) -> None:
        """End all groups and abandon their jobs. Further calls do nothing.

        A group of several workers that is still starting ends by itself once its workers are up: killing it now would
        leave its resources reserved until the driver ends.
        """
        if not self._open:
            return
        self._open = False
        try:
            ended = ray.get(self._queue.stop.remote(_CLOSE_SECONDS), timeout=2 * _CLOSE_SECONDS)
        except (RayActorError, GetTimeoutError):
            ended = True  # the queue died, and the groups end with it
        if ended:
            ray.kill(self._queue)
        else:
            self._queue.leave.remote()

    def _call(self, reply: ray.ObjectRef) -> Any:
        """Wait for a reply of the queue, and raise the queue's own errors."""
        try:
            return ray.get(reply)
        except RayTaskError as problem:
            raise problem.cause from None
        except RayActorError as problem:
            raise PoolError(f"the queue of the pool is gone: {problem}") from problem


def _group(settings: WorkerSettings) -> WorkerGroup:
    if settings.workers == 1:
        return ActorGroup(settings)
    return TrainGroup(settings, {key: value for key, value in os.environ.items() if key.startswith("RAY_TRAIN_")})
