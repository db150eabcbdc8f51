"""The pool: long-lived groups of Ray Train workers that take jobs from a queue.

A fresh `TorchTrainer` per job costs 13-28 s before the job's first step; a group that is kept costs that once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import ray
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from adapad_ray.distributed.job_queue import JobQueue
from adapad_ray.distributed.jobs import JobOutcome, JobProgress, PoolError, SetupContext, WorkerConfig, reference

_TRAIN_ENVIRONMENT = {
    # The controller looks after its workers this often. Ray's default of 2 s is felt at every start, death and end.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # It tells workers that their node is about to go. Ours keep checkpoints anyway, so its process is not worth it.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
# Training frees and takes the same large tensors in every step. glibc gives them back to the kernel and faults them in
# again, thousands of pages a step, unless it is told to keep them; other allocators do not read these. One arena,
# because a job runs in a thread of its own, and arenas of threads are small. Not above 32 MB: older ones refuse that.
_KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
}
# Callbacks of Ray Train that start an actor of their own. One deals out sets of Ray Data, of which there are none. The
# cleaner of placement groups is detached: without the dashboard's packages it never learns that its controller was
# killed, and stays until the cluster ends; `_free_resources` does its work.
_NEEDLESS_CALLBACKS = ("PlacementGroupCleanerCallback", "DatasetsCallback")
_CLOSE_SECONDS = 3.0


class WorkerPool:
    """`groups` groups of `workers` workers each, which share one queue of jobs. A context manager.

    `setup` runs once in each worker process, `run` once per job and rank with what `setup` returned; both are
    module-level functions and travel by name. An exception of `run` ends that job alone. A process that dies costs its
    group a restart, and the job that it held goes back to the queue, `max_attempts` starts in all. A group whose Ray
    Train controller died is built again.

    Each worker has `max(1, int(cpus_per_worker))` torch threads. Relative paths mean nothing in a worker.

    Args:
        setup: `setup(SetupContext) -> state`.
        run: `run(state, payload, JobContext) -> bytes | dict`; the value of rank 0 is the job's.
        name: goes into the names of actors and of Ray Train's runs.
        shared: objects that `setup` may fetch; the caller keeps the references, and so the objects, alive.
        max_attempts: starts of one job, after which it is `lost`.
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
        self._seen = 0
        self._open: set[str] = set()

    def __enter__(self) -> WorkerPool:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._storage = tempfile.mkdtemp(prefix=f"{self._name}-")
        self._queue = (
            ray.remote(JobQueue)
            .options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here, name=f"{self._name}-queue")
            .remote(self.groups, self._workers, self._max_attempts)
        )
        train_environment = {key: value for key, value in os.environ.items() if key.startswith("RAY_TRAIN_")}
        self._launcher = (
            ray.remote(_Launcher)
            .options(
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=-1,
                max_concurrency=self.groups,
                scheduling_strategy=here,
                runtime_env={"env_vars": _TRAIN_ENVIRONMENT | train_environment},
                name=f"{self._name}-launcher",
            )
            .remote()
        )
        self._groups_alive = [
            self._launcher.keep_alive.remote(
                WorkerConfig(queue=self._queue, group=group, **self._settings),
                f"{self._name}-group-{group}",
                self._storage,
            )
            for group in range(self.groups)
        ]
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
        """
        try:
            ray.get(self._queue.submit.remote(job_id, payload))
        except RayTaskError as problem:
            raise problem.cause from None
        except RayActorError as problem:
            raise PoolError(f"the queue of the pool is gone: {problem}") from problem
        self._open.add(job_id)

    def poll(self, timeout: float = 1.0) -> list[JobProgress | JobOutcome]:
        """What has happened since the last call, waiting up to `timeout` seconds for something to happen.

        Raises:
            PoolError: the pool is broken; every outcome there was has been delivered before.
        """
        self._check_groups()
        try:
            news: list[JobProgress | JobOutcome]
            self._seen, news = ray.get(self._queue.poll.remote(self._seen, timeout))
        except RayTaskError as problem:
            raise problem.cause from None
        except RayActorError as problem:
            raise PoolError(f"the queue of the pool is gone: {problem}") from problem
        self._open -= {item.job_id for item in news if isinstance(item, JobOutcome)}
        return news

    def completed(self) -> Iterator[JobOutcome]:
        """Outcomes as they come, until every job that was submitted through this object has one."""
        while self._open:
            yield from (item for item in self.poll() if isinstance(item, JobOutcome))

    def counts(self) -> dict[str, int]:
        """`ready` groups, `pending` and `running` jobs.

        Raises:
            PoolError: the pool is broken.
        """
        try:
            counts: dict[str, int] = ray.get(self._queue.counts.remote())
        except RayTaskError as problem:
            raise problem.cause from None
        except RayActorError as problem:
            raise PoolError(f"the queue of the pool is gone: {problem}") from problem
        return counts

    def wait_ready(self, timeout: float = 120.0) -> None:
        """Wait until every group has finished its set-up. Jobs may be submitted before.

        Raises:
            PoolError: the pool is broken, or `timeout` seconds were not enough.
        """
        deadline = time.monotonic() + timeout
        while self.counts()["ready"] < self.groups:
            self._check_groups()
            if time.monotonic() > deadline:
                raise PoolError(f"{self.counts()['ready']} of {self.groups} groups were ready after {timeout:g} s")
            time.sleep(0.1)

    def close(self) -> None:
        """End all groups and abandon what they were doing; after the first call, no more than that.

        A group that is just starting, and cannot be told yet, winds up by itself when its workers are there: to kill
        its controller now would leave the resources reserved until the driver ends.
        """
        if self._launcher is None:
            return
        launcher, self._launcher = self._launcher, None
        try:
            ray.get(self._queue.stop.remote(), timeout=_CLOSE_SECONDS)
            _, starting = ray.wait(self._groups_alive, num_returns=self.groups, timeout=_CLOSE_SECONDS)
        except (RayActorError, GetTimeoutError):
            starting = []  # the queue died, and the groups end with their launcher
        finally:
            shutil.rmtree(self._storage, ignore_errors=True)
        if not starting:
            ray.kill(launcher)
            ray.kill(self._queue)

    def _check_groups(self) -> None:
        ended, _ = ray.wait(self._groups_alive, num_returns=1, timeout=0)
        for group in ended:
            try:
                ray.get(group)
            except (RayTaskError, RayActorError) as problem:
                raise PoolError(f"a worker group cannot be kept alive: {problem}") from problem


class _Launcher:
    """The actor that calls `TorchTrainer.fit`, one thread a group, and calls it again when a controller has died.

    A process apart, because killing it ends every trainer at once, whatever they do, and because nothing that Ray
    Train prints or does with signals then reaches the driver.
    """

    def keep_alive(self, config: WorkerConfig, name: str, storage: str) -> None:
        """Returns when the pool stops."""
        import ray.train

        stopped = config.queue.stopped.remote()
        life = 0
        while not ray.wait([stopped], timeout=1.0 if life else 0.0)[0]:
            _free_resources()
            # Either error: the controller is gone, and its workers with it.
            with suppress(ray.train.TrainingFailedError, RayActorError):
                _trainer(config, f"{name}-life-{life}" if life else name, storage).fit()
            life += 1
        shutil.rmtree(storage, ignore_errors=True)  # a group that was starting has written after the driver removed it


def _free_resources() -> None:
    """Remove the placement groups of controllers that are dead.

    A controller that is killed, also while its workers are only starting, leaves its placement group behind until the
    driver ends, and the next controller would wait for these very resources. Ray's public functions do not tell who
    made a placement group.
    """
    job = ray.get_runtime_context().get_job_id()
    for entry in ray._private.state.state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(entry)
        # What the driver itself has made, Tune's for its trials among them, has no actor and counts as a dead one's.
        by_an_actor = group.creator_actor_id != ray.ActorID.nil().binary()
        orphaned = by_an_actor and group.creator_actor_dead and not group.is_detached
        if orphaned and group.creator_job_id.hex() == job:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))


def _trainer(config: WorkerConfig, name: str, storage: str) -> Any:
    import ray.train.torch

    from adapad_ray.distributed.worker import serve

    class Trainer(ray.train.torch.TorchTrainer):  # type: ignore[misc]
        def _create_default_callbacks(self) -> list[Any]:
            return [c for c in super()._create_default_callbacks() if type(c).__name__ not in _NEEDLESS_CALLBACKS]

    cpus, gpus = config.cpus, config.gpus
    threads = str(max(1, int(cpus)))
    return Trainer(
        serve,
        train_loop_config=config,
        # NCCL refuses two ranks on one GPU.
        torch_config=ray.train.torch.TorchConfig(backend="gloo" if gpus < 1 else None),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=ray.train.FailureConfig(max_failures=-1),
            worker_runtime_env={"env_vars": _KEEP_MEMORY | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
