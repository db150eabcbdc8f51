"""The job queue: hands jobs to worker groups, and repeats a job whose workers died.

An incarnation is one life of a group's worker processes, from their start to the first death.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError

from adapad_ray.distributed.attempts import Attempt, Job
from adapad_ray.distributed.estimate_board import EstimateBoard
from adapad_ray.distributed.jobs import Assignment, JobError, JobOutcome, JobProgress, PoolError
from adapad_ray.distributed.ray_internals import ping
from adapad_ray.wording import counted


@dataclass
class _Group:
    """A group and its present incarnation."""

    index: int
    incarnation: str | None = None
    members: dict[int, ray.actor.ActorHandle] = field(default_factory=dict)
    """Living workers, by rank."""
    ready: set[int] = field(default_factory=set)
    """Ranks whose set-up has succeeded."""
    was_ready: bool = True
    """Whether every rank of the last incarnation was ready once."""
    failed_starts: int = 0
    """Incarnations in a row that died before every rank was ready."""
    attempt: Attempt | None = None
    joining: asyncio.Lock = field(default_factory=asyncio.Lock)

    def kill(self) -> None:
        """Kill all living workers."""
        for worker in self.members.values():
            ray.kill(worker)


class JobQueue:
    """An asyncio actor. Jobs go out in the order of submission; a job whose worker died goes back to the front.

    A worker counts as dead when Ray reports its death, never because it is silent, so a slow job is not taken for a
    dead one. A job is handed out again only when every worker that held it has answered or is dead, so two attempts
    never overlap.

    Args:
        groups: number of groups that will join.
        workers: ranks of each group.
        max_attempts: starts of one job, after which it is `lost` instead of repeated.
        straggler_seconds: how long the other ranks may go on after one rank has failed.
        ping_seconds: interval of the calls that notice a death.
    """

    def __init__(
        self,
        groups: int,
        workers: int,
        max_attempts: int,
        straggler_seconds: float = 10.0,
        ping_seconds: float = 0.5,
    ) -> None:
        self._workers = workers
        self._max_attempts = max_attempts
        self._straggler_seconds = straggler_seconds
        self._ping_seconds = ping_seconds
        self._groups = [_Group(index) for index in range(groups)]
        self._jobs: dict[str, Job] = {}
        """Jobs without an outcome, and abandoned ones."""
        self._pending: deque[Job] = deque()
        self._board: Any = ray.remote(EstimateBoard)
        self._generations = 0
        self._outcomes: deque[tuple[int, JobOutcome]] = deque()
        """Numbered outcomes that the driver has not acknowledged."""
        self._outcome_count = 0
        self._progress: dict[str, JobProgress] = {}
        self._stopping = False
        self._fault: str | None = None
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, job_id: str, payload: dict[str, Any]) -> None:
        """Put a job at the end of the queue. An id may be used again once its job has ended.

        Raises:
            ValueError: a job of this id has not ended yet.
            PoolError: the pool is closed.
        """
        if job_id in self._jobs and not self._jobs[job_id].outcome.done():
            raise ValueError(f"job {job_id!r} is already in the queue or running")
        if self._stopping:
            raise PoolError("the pool is closed")
        job = Job(job_id, payload, asyncio.get_running_loop().create_future())
        self._jobs[job_id] = job
        self._pending.append(job)
        await self._notify()

    async def submit_and_wait(self, job_id: str, payload: dict[str, Any]) -> JobOutcome:
        """Submit a job and return its outcome; the driver's `poll` returns it too.

        Raises:
            PoolError: the pool was closed or broke first.
        """
        await self.submit(job_id, payload)
        return await asyncio.shield(self._jobs[job_id].outcome)

    async def poll(self, acknowledged: int, timeout: float) -> tuple[int, list[JobProgress | JobOutcome]]:
        """Return the events since outcome number `acknowledged`, and the number of the last outcome.

        Waits up to `timeout` seconds for an event. An outcome is kept until a later call acknowledges it, so a reply
        that is lost is sent again.

        Raises:
            PoolError: the pool is broken.
        """
        while self._outcomes and self._outcomes[0][0] <= acknowledged:
            self._outcomes.popleft()
        await self._wait(lambda: bool(self._outcomes or self._progress or self._fault), timeout)
        if self._fault and not self._outcomes:
            raise PoolError(self._fault)
        events: list[JobProgress | JobOutcome] = list(self._progress.values())
        self._progress.clear()
        events.extend(outcome for _, outcome in self._outcomes)
        return self._outcome_count, events

    async def stop(self) -> None:
        """Drop waiting jobs, abandon running ones, and let every worker leave."""
        self._stopping = True
        self._pending.clear()
        self._abandon("the pool was closed")
        await self._notify()

    async def stopped(self) -> None:
        """Return when the pool stops."""
        await self._wait(lambda: self._stopping)

    async def join(self, group: int, incarnation: str, rank: int, worker: ray.actor.ActorHandle) -> None:
        """A worker has started. The first of a new incarnation waits until the previous incarnation is dead."""
        state = self._groups[group]
        async with state.joining:
            if state.incarnation != incarnation:
                await self._end(state)
                state.failed_starts += not state.was_ready
                if state.failed_starts >= self._max_attempts:
                    self._break(
                        f"workers of group {group} died {counted(self._max_attempts, 'time')} in a row while starting"
                    )
                state.incarnation, state.members, state.ready, state.was_ready = incarnation, {}, set(), False
        state.members[rank] = worker
        self._spawn(self._watch(state, incarnation, rank, worker))
        await self._notify()

    async def ready(self, group: int, rank: int) -> None:
        """A worker's set-up has succeeded."""
        state = self._groups[group]
        state.ready.add(rank)
        if len(state.ready) == self._workers:
            state.was_ready, state.failed_starts = True, 0
        await self._notify()

    async def set_up_failed(self, group: int, rank: int, error: JobError) -> None:
        """A worker's set-up raised. It would raise in every worker, so the pool is broken."""
        self._break(f"set-up of rank {rank} of group {group} failed: {error.type}: {error.message}\n{error.traceback}")
        await self._notify()

    async def take(self, group: int, incarnation: str, rank: int) -> Assignment | None:
        """Return the next job of this group, the same for all its ranks; None if the worker is to leave."""
        state = self._groups[group]

        def may_go() -> bool:
            return (
                self._stopping
                or state.incarnation != incarnation
                or (state.attempt is not None and rank not in state.attempt.taken)
                or (state.attempt is None and bool(self._pending) and len(state.ready) == self._workers)
            )

        await self._wait(may_go)
        if self._stopping or state.incarnation != incarnation:
            return None
        if state.attempt is None:
            state.attempt = self._new_attempt(group)
        attempt = state.attempt
        attempt.taken.add(rank)
        await self._notify()
        job, number = attempt.job, attempt.job.attempts + (not attempt.started)
        return Assignment(attempt.generation, job.job_id, job.payload, number, attempt.board)

    async def started(self, group: int, generation: int) -> bool:
        """A rank is about to run its assignment: only now does a death count as an attempt. False if it is too late."""
        attempt = self._groups[group].attempt
        if attempt is None or attempt.generation != generation:
            return False
        attempt.start()
        return True

    async def progress(self, group: int, generation: int, data: dict[str, Any]) -> None:
        """Record progress of a running job."""
        attempt = self._groups[group].attempt
        if attempt is not None and attempt.generation == generation:
            job = attempt.job
            self._progress[job.job_id] = JobProgress(job.job_id, group, job.attempts, data)
            await self._notify()

    async def finish(
        self, group: int, generation: int, rank: int, value: Any, error: JobError | None, lost: bool = False
    ) -> None:
        """A rank has ended its part of a job. The attempt ends when all have, or when stragglers have been killed.

        Args:
            lost: whether the error is the loss of another worker or of the board, which is no fault of the job.
        """
        state = self._groups[group]
        attempt = state.attempt
        if attempt is None or attempt.generation != generation:
            return
        first_failure = error is not None and not attempt.failed
        attempt.answer(rank, value, error, lost)
        if attempt.answered == self._workers:
            self._release(state)
        elif error is not None or rank == 0:
            if attempt.board is not None:
                attempt.board.close.remote()
            if first_failure:
                self._spawn(self._end_stragglers(state, attempt))
        await self._notify()

    def _new_attempt(self, group: int) -> Attempt:
        self._generations += 1
        attempt = Attempt(self._generations, self._pending.popleft(), group)
        if self._workers > 1:
            name = f"adapad:cell-{attempt.job.job_id}:board-{attempt.generation}"
            attempt.board = self._board.options(num_cpus=0, name=name).remote(attempt.generation, self._workers)
        return attempt

    def _release(self, state: _Group) -> None:
        """Take the job from a group that has answered or died: it has an outcome, or goes back to the queue's front."""
        attempt, state.attempt = state.attempt, None
        if attempt is None:
            return
        if attempt.board is not None:
            ray.kill(attempt.board)
        job = attempt.job
        if job.outcome.done():
            return
        outcome = attempt.outcome(self._max_attempts)
        if outcome is None:
            self._pending.appendleft(job)
            return
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
                job.outcome.exception()  # retrieved, or asyncio logs an error for a job that nobody waits for
        for group in self._groups:
            self._release(group)

    async def _watch(self, state: _Group, incarnation: str, rank: int, worker: ray.actor.ActorHandle) -> None:
        """When a worker dies, kill the rest of its group, whose part of the job is void, and free the job."""
        await self._wait_for_death(worker)
        if state.incarnation != incarnation:
            return
        state.members.pop(rank, None)
        state.kill()
        if not state.members:
            state.incarnation, state.ready = None, set()
            self._release(state)
            await self._notify()

    async def _wait_for_death(self, worker: ray.actor.ActorHandle) -> None:
        """Call a worker until it is dead. One that cannot be reached may come back, and may be training meanwhile."""
        while True:
            try:
                await ping(worker)
            except ActorUnavailableError:
                pass
            except RayActorError:
                return
            await asyncio.sleep(self._ping_seconds)

    async def _end(self, state: _Group) -> None:
        """Kill an incarnation, wait until it is dead, and free its job."""
        workers = list(state.members.values())
        state.kill()
        await asyncio.gather(*map(self._wait_for_death, workers))
        self._release(state)

    async def _end_stragglers(self, state: _Group, attempt: Attempt) -> None:
        """Restart a group in which one rank failed and the others may wait for it forever; the failure stands."""
        await asyncio.sleep(self._straggler_seconds)
        if state.attempt is attempt:
            state.kill()

    async def _wait(self, condition: Callable[[], bool], timeout: float | None = None) -> None:
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(condition), timeout)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
