"""The queue of a pool: who holds which job, and what becomes of a job whose worker dies."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from adapad_ray.distributed.estimate_board import EstimateBoard
from adapad_ray.distributed.jobs import Assignment, JobError, JobOutcome, JobProgress, PoolError


@dataclass
class _Job:
    job_id: str
    payload: dict[str, Any]
    outcome: asyncio.Future[JobOutcome]
    attempts: int = 0


@dataclass
class _Lease:
    """A job in the hands of one incarnation of a group, until every rank has answered or died."""

    token: int
    job: _Job
    began: float
    started: bool = False
    taken: set[int] = field(default_factory=set)
    values: dict[int, Any] = field(default_factory=dict)
    errors: dict[int, JobError] = field(default_factory=dict)
    lost: dict[int, JobError] = field(default_factory=dict)
    """Ranks that could not go on because a companion or the board was gone: no fault of the job."""
    board: ray.actor.ActorHandle | None = None

    @property
    def answered(self) -> int:
        return len(self.values) + len(self.errors) + len(self.lost)


@dataclass
class _Group:
    """A group and its present incarnation: one life of its worker processes, from start to the first death."""

    incarnation: str | None = None
    members: dict[int, ray.actor.ActorHandle] = field(default_factory=dict)
    ready: set[int] = field(default_factory=set)
    served: bool = True
    """Whether every rank of the last incarnation was ready once."""
    fruitless_starts: int = 0
    """Incarnations in a row that died before every rank was ready."""
    lease: _Lease | None = None
    joining: asyncio.Lock = field(default_factory=asyncio.Lock)


class JobQueue:
    """An asyncio actor. Jobs go out in the order of submission; a job whose worker died goes back to the front.

    Death is observed, never guessed from silence: a worker counts as dead when Ray says so. Hence a slow job is never
    taken for a dead one. A job is handed out again only when every worker that held it has answered or is dead, so two
    attempts never overlap.

    Args:
        groups: number of groups that will join.
        workers: ranks of each group.
        max_attempts: starts of one job, after which it is `lost` instead of repeated.
        straggler_seconds: how long the other ranks may go on after one rank has failed.
        watch_seconds: interval of the calls that notice a death.
    """

    def __init__(
        self,
        groups: int,
        workers: int,
        max_attempts: int,
        straggler_seconds: float = 10.0,
        watch_seconds: float = 0.5,
    ) -> None:
        self._workers = workers
        self._max_attempts = max_attempts
        self._straggler_seconds = straggler_seconds
        self._watch_seconds = watch_seconds
        self._groups = [_Group() for _ in range(groups)]
        self._jobs: dict[str, _Job] = {}
        self._pending: deque[_Job] = deque()
        self._board: Any = ray.remote(EstimateBoard)
        self._tokens = 0
        self._outcomes: deque[tuple[int, JobOutcome]] = deque()
        self._outcome_count = 0
        self._progress: dict[str, JobProgress] = {}
        self._stopping = False
        self._fault: str | None = None
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    # For the driver ----------------------------------------------------------------------------------------------

    async def submit(self, job_id: str, payload: dict[str, Any]) -> None:
        """Put a job at the end of the queue. An id may be used again once its job has ended."""
        job = self._jobs.get(job_id)
        if job is not None and not job.outcome.done():
            raise ValueError(f"job {job_id!r} is already in the queue or running")
        if self._stopping:
            raise PoolError("the pool is closed")
        job = _Job(job_id, payload, asyncio.get_running_loop().create_future())
        self._jobs[job_id] = job
        self._pending.append(job)
        await self._notify()

    async def submit_and_wait(self, job_id: str, payload: dict[str, Any]) -> JobOutcome:
        """Submit a job and return its outcome; the driver's `poll` sees it too.

        Raises:
            PoolError: the pool was closed or broke first.
        """
        await self.submit(job_id, payload)
        return await asyncio.shield(self._jobs[job_id].outcome)

    async def poll(self, seen: int, timeout: float) -> tuple[int, list[JobProgress | JobOutcome]]:
        """News since the outcome numbered `seen`, waiting up to `timeout` seconds for some, and the new number.

        An outcome is kept until a later call says that it was seen: a reply that is lost is sent again.

        Raises:
            PoolError: the pool is broken.
        """
        while self._outcomes and self._outcomes[0][0] <= seen:
            self._outcomes.popleft()
        await self._wait(lambda: self._outcomes or self._progress or self._fault, timeout)
        if self._fault and not self._outcomes:
            raise PoolError(self._fault)
        news: list[JobProgress | JobOutcome] = list(self._progress.values())
        self._progress.clear()
        news.extend(outcome for _, outcome in self._outcomes)
        return self._outcome_count, news

    async def counts(self) -> dict[str, int]:
        """How many groups are ready, and how many jobs wait and run.

        Raises:
            PoolError: the pool is broken.
        """
        if self._fault:
            raise PoolError(self._fault)
        return {
            "ready": sum(len(group.ready) == self._workers for group in self._groups),
            "pending": len(self._pending),
            "running": sum(group.lease is not None for group in self._groups),
        }

    async def stop(self) -> None:
        """Drop what waits, and let every worker leave; jobs that run are abandoned."""
        self._stopping = True
        self._pending.clear()
        self._abandon("the pool was closed")
        await self._notify()

    # For the workers -----------------------------------------------------------------------------------------------

    async def join(self, group: int, incarnation: str, rank: int, worker: ray.actor.ActorHandle) -> None:
        """A worker has started. The first one of a new incarnation makes sure that the previous one is dead."""
        state = self._groups[group]
        async with state.joining:
            if state.incarnation != incarnation:
                await self._end(state)
                state.fruitless_starts += not state.served
                if state.fruitless_starts >= self._max_attempts:
                    self._break(
                        f"workers of group {group} died {self._max_attempts} times in a row while they were starting"
                    )
                state.incarnation, state.members, state.ready, state.served = incarnation, {}, set(), False
        state.members[rank] = worker
        self._spawn(self._watch(state, incarnation, rank, worker))
        await self._notify()

    async def ready(self, group: int, rank: int) -> None:
        """A worker's set-up has succeeded."""
        state = self._groups[group]
        state.ready.add(rank)
        if len(state.ready) == self._workers:
            state.served, state.fruitless_starts = True, 0
        await self._notify()

    async def set_up_failed(self, group: int, rank: int, error: JobError) -> None:
        """A worker's set-up raised. It would raise everywhere and for ever, so the pool is broken."""
        self._break(f"set-up of rank {rank} of group {group} failed: {error.type}: {error.message}\n{error.traceback}")
        await self._notify()

    async def take(self, group: int, incarnation: str, rank: int) -> Assignment | None:
        """The next job of this group, the same for all its ranks; None: leave."""
        state = self._groups[group]

        def may_go() -> bool:
            return (
                self._stopping
                or state.incarnation != incarnation
                or (state.lease is not None and rank not in state.lease.taken)
                or (state.lease is None and bool(self._pending) and len(state.ready) == self._workers)
            )

        await self._wait(may_go)
        if self._stopping or state.incarnation != incarnation:
            return None
        if state.lease is None:
            self._tokens += 1
            state.lease = _Lease(self._tokens, self._pending.popleft(), time.monotonic())
            if self._workers > 1:
                name = f"adapad:cell-{state.lease.job.job_id}:board-{self._tokens}"  # a token is never used twice
                state.lease.board = self._board.options(num_cpus=0, name=name).remote(self._tokens, self._workers)
        lease = state.lease
        lease.taken.add(rank)
        await self._notify()
        attempt = lease.job.attempts + (not lease.started)
        return Assignment(lease.token, lease.job.job_id, lease.job.payload, attempt, lease.board)

    async def started(self, group: int, token: int) -> bool:
        """A rank is about to run what it took; only from here on does a death count as an attempt. False: too late."""
        lease = self._groups[group].lease
        if lease is None or lease.token != token:
            return False
        if not lease.started:
            lease.started = True
            lease.job.attempts += 1
            lease.began = time.monotonic()
        return True

    async def progress(self, group: int, token: int, data: dict[str, Any]) -> None:
        """A running job speaks."""
        lease = self._groups[group].lease
        if lease is not None and lease.token == token:
            job = lease.job
            self._progress[job.job_id] = JobProgress(job.job_id, group, job.attempts, data)
            await self._notify()

    async def finish(
        self, group: int, token: int, rank: int, value: Any, error: JobError | None, lost: bool = False
    ) -> None:
        """A rank has ended its part. The outcome stands when all have, or when stragglers after a failure are gone.

        A rank that `lost` its companions or its board has not failed: the job goes back to the queue, unless another
        rank says what was wrong with it, or rank 0 has done it: then the others may have waited for it in vain.
        """
        state = self._groups[group]
        lease = state.lease
        if lease is None or lease.token != token:
            return
        first = not lease.errors and not lease.lost
        if error is None:
            lease.values[rank] = value
        elif lost:
            lease.lost[rank] = error
        else:
            lease.errors[rank] = error
        if lease.answered == self._workers:
            self._release(state)
        elif error is not None or rank == 0:
            if lease.board is not None:
                lease.board.close.remote()
            if error is not None and first:
                self._spawn(self._end_stragglers(state, lease))
        await self._notify()

    async def stopped(self) -> None:
        """Returns when the pool stops."""
        await self._wait(lambda: self._stopping)

    # Inside ----------------------------------------------------------------------------------------------------------

    async def _wait(self, condition: Any, timeout: float | None = None) -> None:
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(condition), timeout)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, state: _Group, incarnation: str, rank: int, worker: ray.actor.ActorHandle) -> None:
        """When a worker has died, end its companions, whose part of the job is void, and free the job."""
        await self._death(worker)
        if state.incarnation != incarnation:
            return
        state.members.pop(rank, None)
        for companion in state.members.values():
            ray.kill(companion)
        if not state.members:
            state.incarnation, state.ready = None, set()
            self._release(state)
            await self._notify()

    async def _death(self, worker: ray.actor.ActorHandle) -> None:
        """Call a worker until it is dead. One that cannot be reached may come back, and may be training meanwhile."""
        while True:
            try:
                await worker.__ray_ready__.remote()
            except ActorUnavailableError:
                pass
            except RayActorError:
                return
            await asyncio.sleep(self._watch_seconds)

    async def _end(self, state: _Group) -> None:
        """Make sure that an incarnation is dead, and free its job."""
        workers = list(state.members.values())
        for worker in workers:
            ray.kill(worker)
        await asyncio.gather(*map(self._death, workers))
        self._release(state)

    async def _end_stragglers(self, state: _Group, lease: _Lease) -> None:
        """After one rank failed, the others may wait for it for ever: restart their group, the failure standing."""
        await asyncio.sleep(self._straggler_seconds)
        if state.lease is lease:
            for worker in state.members.values():
                ray.kill(worker)

    def _release(self, state: _Group) -> None:
        """Take the job from a group that has answered or died: out of the queue, or back to its front."""
        lease, state.lease = state.lease, None
        if lease is None:
            return
        if lease.board is not None:
            ray.kill(lease.board)
        if lease.job.outcome.done():
            return
        group = self._groups.index(state)
        if lease.errors:
            self._settle(group, lease, "failed", None, lease.errors[min(lease.errors)])
        elif 0 in lease.values:
            self._settle(group, lease, "done", lease.values[0], None)
        elif lease.job.attempts < self._max_attempts:
            self._pending.appendleft(lease.job)
        elif lease.lost:
            self._settle(group, lease, "lost", None, lease.lost[min(lease.lost)])
        else:
            message = f"the worker process died in each of {lease.job.attempts} attempts"
            self._settle(group, lease, "lost", None, JobError("WorkerDied", message))

    def _settle(
        self,
        group: int,
        lease: _Lease,
        status: Literal["done", "failed", "lost"],
        value: Any,
        error: JobError | None,
    ) -> None:
        job = lease.job
        if job.outcome.done():
            return
        seconds = time.monotonic() - lease.began
        outcome = JobOutcome(job.job_id, status, value, error, job.attempts, group, seconds)
        job.outcome.set_result(outcome)
        del self._jobs[job.job_id]
        self._outcome_count += 1
        self._outcomes.append((self._outcome_count, outcome))

    def _break(self, reason: str) -> None:
        if self._fault is None:
            self._fault = reason
        self._stopping = True
        self._abandon(reason)

    def _abandon(self, reason: str) -> None:
        """End every job that has no outcome."""
        for job in self._jobs.values():
            if not job.outcome.done():
                job.outcome.set_exception(PoolError(reason))
                job.outcome.exception()  # retrieved, or asyncio complains about jobs that nobody waits for
        for group in self._groups:
            self._release(group)
