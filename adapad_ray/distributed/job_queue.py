"""The job queue: hands jobs to worker groups, and repeats a job whose workers died."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray

from adapad_ray.distributed.attempts import Attempt, Job
from adapad_ray.distributed.estimate_board import EstimateBoard
from adapad_ray.distributed.groups.keeper import GroupKeeper, GroupState
from adapad_ray.distributed.groups.worker_group import WorkerGroup
from adapad_ray.distributed.jobs import (
    Assignment,
    GroupRetired,
    JobError,
    JobOutcome,
    JobProgress,
    PoolError,
    PoolEvent,
)

UPKEEP_SECONDS = 1.0
"""How often idle groups are looked for."""


class JobQueue:
    """An asyncio actor. Jobs go out in the order of submission; a job whose worker died goes back to the front.

    A job is handed out again only when every worker that held it has answered or is dead, so two attempts never
    overlap.

    Args:
        groups: those that will join. All have the same number of workers.
        max_attempts: starts of one job without a newer checkpoint, after which it is `lost` instead of repeated; also
            of a group in a row.
        idle_seconds: how long a group may be without work before it is ended.
        straggler_seconds: how long the other ranks may go on after one rank has failed.
    """

    def __init__(
        self,
        groups: Sequence[WorkerGroup],
        max_attempts: int,
        idle_seconds: float = 40.0,
        straggler_seconds: float = 10.0,
    ) -> None:
        self._workers = groups[0].settings.workers
        self._leases_several = self._workers == 1 and groups[0].settings.run_together is not None
        self._max_attempts = max_attempts
        self._straggler_seconds = straggler_seconds
        self._keeper = GroupKeeper(
            groups,
            max_starts=max_attempts,
            idle_seconds=idle_seconds,
            on_death=self._release_all,
            on_change=self._notify,
            on_retired=self._tell_retired,
            on_error=lambda error: self._break(f"the queue failed: {type(error).__name__}: {error}"),
        )
        self._groups = self._keeper.states
        self._jobs: dict[str, Job] = {}
        """Jobs without an outcome, and abandoned ones."""
        self._pending: deque[Job] = deque()
        self._board: Any = ray.remote(EstimateBoard)
        self._generations = 0
        self._outcomes: deque[tuple[int, JobOutcome | GroupRetired]] = deque()
        """Numbered events that the driver has not acknowledged."""
        self._outcome_count = 0
        self._progress: dict[str, JobProgress] = {}
        self._stopping = False
        self._fault: str | None = None
        self._changed = asyncio.Condition()

    async def open(self, name: str) -> None:
        """Start all groups; from now on, as many run as there are jobs.

        Args:
            name: part of the names of the groups' actors.
        """
        await self.open_as(ray.get_runtime_context().current_actor, name)

    async def open_as(self, queue: ray.actor.ActorHandle, name: str) -> None:
        """Start all groups, whose workers call `queue`."""
        self._keeper.start(len(self._groups), queue, name)
        self._keeper.spawn(self._keep_groups(queue, name))

    async def submit(self, job_id: str, payload: dict[str, Any], background: bool = False) -> None:
        """Put a job at the end of the queue. An id may be used again once its job has ended.

        Args:
            background: whether the job comes after those, also later ones, that are not in the background.

        Raises:
            ValueError: a job of this id has not ended yet.
            PoolError: the pool is closed.
        """
        if job_id in self._jobs and not self._jobs[job_id].outcome.done():
            raise ValueError(f"job {job_id!r} is already in the queue or running")
        if self._stopping:
            raise PoolError("the pool is closed")
        job = Job(job_id, payload, asyncio.get_running_loop().create_future(), background)
        self._jobs[job_id] = job
        self._pending.insert(len(self._pending) if background else self._not_in_background, job)
        await self._notify()

    async def submit_and_wait(self, job_id: str, payload: dict[str, Any]) -> JobOutcome:
        """Submit a job and return its outcome; the driver's `poll` returns it too.

        Raises:
            PoolError: the pool was closed or broke first.
        """
        await self.submit(job_id, payload)
        return await asyncio.shield(self._jobs[job_id].outcome)

    async def poll(self, acknowledged: int, timeout: float) -> tuple[int, list[PoolEvent]]:
        """Return the events since number `acknowledged`, and the number of the last one.

        Waits up to `timeout` seconds for an event. All but progress is kept until a later call acknowledges it, so a
        reply that is lost is sent again.

        Raises:
            PoolError: the pool is broken.
        """
        while self._outcomes and self._outcomes[0][0] <= acknowledged:
            self._outcomes.popleft()
        await self._wait(lambda: bool(self._outcomes or self._progress or self._fault), timeout)
        if self._fault and not self._outcomes:
            raise PoolError(self._fault)
        events: list[PoolEvent] = list(self._progress.values())
        self._progress.clear()
        events.extend(outcome for _, outcome in self._outcomes)
        return self._outcome_count, events

    async def stop(self, seconds: float) -> bool:
        """Drop waiting jobs, abandon running ones, and end all groups; return whether that took at most `seconds`.

        A group of several workers that is still starting ends once they are up.
        """
        self._stopping = True
        self._pending.clear()
        self._abandon("the pool was closed")
        await self._notify()
        return await self._wait(lambda: not self._keeper.running, seconds)

    async def leave(self) -> None:
        """End this process once all groups have ended."""
        await self._wait(lambda: not self._keeper.running)
        ray.actor.exit_actor()

    async def dismissed(self, group: int) -> None:
        """Return when a group is to leave."""
        await self._wait(lambda: not self._groups[group].wanted)

    async def join(self, group: int, incarnation: str, rank: int, worker: ray.actor.ActorHandle) -> None:
        """A worker has started. The first of a new incarnation waits until the previous incarnation is dead."""
        await self._keeper.join(group, incarnation, rank, worker)

    async def ready(self, group: int, incarnation: str, rank: int) -> None:
        """A worker's set-up has succeeded."""
        await self._keeper.ready(group, incarnation, rank)

    async def set_up_failed(self, group: int, incarnation: str, node: str, error: JobError) -> None:
        """A worker's set-up raised: its group is retired, and the others go on."""
        self._keeper.set_up_failed(group, incarnation, node, f"{error.type}: {error.message}")
        await self._notify()

    async def take(self, group: int, incarnation: str, rank: int) -> Assignment | None:
        """Return the next job of this group, the same for all its ranks; None if the worker is to leave."""
        state = self._groups[group]

        def may_go() -> bool:
            return (
                self._stopping
                or state.incarnation != incarnation
                or any(rank not in attempt.taken for attempt in state.attempts.values())
                or (not state.attempts and len(state.ready) == self._workers and self._next_job(state) is not None)
            )

        await self._wait(may_go)
        if self._stopping or state.incarnation != incarnation:
            return None
        if not state.attempts:
            state.attempts = {attempt.generation: attempt for attempt in self._new_attempts(state)}
        for attempt in state.attempts.values():
            attempt.taken.add(rank)
        await self._notify()
        first, *others = (attempt.assignment() for attempt in state.attempts.values())
        return replace(first, beside=tuple(others))

    async def started(self, group: int, generation: int) -> bool:
        """A rank is about to run its assignment: only now does a death count as an attempt. False if it is too late."""
        attempt = self._groups[group].attempts.get(generation)
        if attempt is None:
            return False
        attempt.start()
        return True

    async def progress(self, group: int, generation: int, data: dict[str, Any]) -> None:
        """Record progress of a running job."""
        attempt = self._groups[group].attempts.get(generation)
        if attempt is not None:
            job = attempt.job
            attempt.resume(int(data.get("resumed", 0)))
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
        attempt = state.attempts.get(generation)
        if attempt is None:
            return
        first_failure = error is not None and not attempt.failed
        attempt.answer(rank, value, error, lost)
        if attempt.answered == self._workers:
            self._release(state, attempt)
        elif error is not None or rank == 0:
            if attempt.board is not None:
                attempt.board.close.remote()
            if first_failure:
                self._keeper.spawn(self._end_stragglers(state, attempt))
        await self._notify()

    async def accelerator_lost(self, group: int, generation: int, rank: int, error: JobError) -> None:
        """A rank's process has lost its accelerator: the job is lost, and the group too if that is the second job."""
        state = self._groups[group]
        attempt = state.attempts.get(generation)
        if attempt is None:
            return
        attempt.job.broke.add(group)
        state.broken_by.add(attempt.job.job_id)
        await self.finish(group, generation, rank, None, error, lost=True)
        if len(state.broken_by) > 1:
            reason = error.message.partition("\n")[0]
            self._keeper.retire(state, f"it lost its accelerator in two jobs in a row: {error.type}: {reason}")
            await self._notify()

    def _next_job(self, state: GroupState) -> Job | None:
        """The first job for a group, which is none that has cost it an accelerator, if another group can have that."""
        running = {other.index for other in self._groups if other.wanted}
        return next((job for job in self._pending if state.index not in job.broke or running <= job.broke), None)

    def _new_attempts(self, state: GroupState) -> list[Attempt]:
        """Attempts at the next job for a group, and at those that are computed together with it."""
        first = self._next_job(state)
        assert first is not None
        return [self._new_attempt(job, state) for job in [first, *self._beside(first, state)]]

    def _new_attempt(self, job: Job, state: GroupState) -> Attempt:
        self._generations += 1
        self._pending.remove(job)
        attempt = Attempt(self._generations, job, state.index)
        if self._workers > 1:
            name = f"adapad:cell-{attempt.job.job_id}:board-{attempt.generation}"
            attempt.board = self._board.options(num_cpus=0, name=name).remote(attempt.generation, self._workers)
        return attempt

    def _beside(self, first: Job, state: GroupState) -> list[Job]:
        """Waiting jobs to compute together with `first`: a group's share of those that can be.

        A job whose last attempt is due goes alone, so that it is not lost with another that kills its process.
        """
        company = first.company
        if not self._leases_several or company is None or self._is_last_attempt(first):
            return []
        alike = [
            job
            for job in self._pending
            if job.company is not None
            and job.company.key == company.key
            and state.index not in job.broke
            and not self._is_last_attempt(job)
        ]
        share = -(-len(alike) // len(self._keeper.usable))
        return [job for job in alike if job is not first][: min(share, company.most) - 1]

    def _is_last_attempt(self, job: Job) -> bool:
        return job.fruitless > 0 and job.fruitless >= self._max_attempts - 1

    def _release_all(self, state: GroupState) -> None:
        """Take all jobs from a group that has died or is dismissed; those that came first go back first."""
        for attempt in reversed(list(state.attempts.values())):
            self._release(state, attempt)

    def _release(self, state: GroupState, attempt: Attempt) -> None:
        """Take a job from a group that has answered or died: it has an outcome, or goes back to the queue's front."""
        del state.attempts[attempt.generation]
        state.idle_since = time.monotonic()
        if attempt.values or attempt.errors:
            state.broken_by.clear()
        if attempt.board is not None:
            ray.kill(attempt.board)
        job = attempt.job
        if job.outcome.done():
            return
        outcome = attempt.outcome(self._max_attempts)
        if outcome is None:
            self._pending.insert(self._not_in_background if job.background else 0, job)
            return
        job.outcome.set_result(outcome)
        del self._jobs[job.job_id]
        self._tell(outcome)

    def _tell(self, event: JobOutcome | GroupRetired) -> None:
        self._outcome_count += 1
        self._outcomes.append((self._outcome_count, event))

    def _tell_retired(self, state: GroupState) -> None:
        self._tell(GroupRetired(state.index, state.retired or ""))
        if not self._keeper.usable:
            reasons = list(dict.fromkeys(state.retired for state in self._groups))
            self._break(f"no worker group is left: {'; '.join(map(str, reasons))}")

    async def _keep_groups(self, queue: ray.actor.ActorHandle, name: str) -> None:
        while not self._stopping:
            await self._wait(lambda: self._stopping or self._keeper.may_start(self._needed), UPKEEP_SECONDS)
            self._keeper.start(self._needed, queue, name)
            self._keeper.end_idle(self._needed)

    @property
    def _not_in_background(self) -> int:
        """Waiting jobs that come before those in the background."""
        return sum(not job.background for job in self._pending)

    @property
    def _needed(self) -> int:
        """Groups that the jobs need which are running or waiting."""
        return len(self._pending) + sum(bool(state.attempts) for state in self._groups)

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
        for state in self._groups:
            self._keeper.dismiss(state)
            self._release_all(state)

    async def _end_stragglers(self, state: GroupState, attempt: Attempt) -> None:
        """Restart a group in which one rank failed and the others may wait for it forever; the failure stands."""
        await asyncio.sleep(self._straggler_seconds)
        if attempt.generation in state.attempts:
            state.kill()

    async def _wait(self, condition: Callable[[], bool], timeout: float | None = None) -> bool:
        """Waits for a condition; returns whether it is met."""
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(condition), timeout)
        return condition()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
