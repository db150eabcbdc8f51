"""The keeper of a pool's groups: starts them while there is work, ends idle ones, retires those that cannot work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from adapad_ray.distributed.attempts import Attempt
from adapad_ray.distributed.groups.worker_group import WorkerGroup
from adapad_ray.distributed.jobs import WorkerConfig
from adapad_ray.wording import counted

RESTART_SECONDS = 1.0
"""Wait after a start that has failed."""
PLACE_SECONDS = 10.0
"""How often is checked that the cluster can hold a group which has no process yet."""
MISFITS = 3
"""Checks in a row that must fail before the group is retired: a node may come back."""


@dataclass
class GroupState:
    """A group and its present incarnation: one life of its worker processes, from their start to the first death."""

    index: int
    group: WorkerGroup
    wanted: bool = False
    """Whether the group is to run. One that is no longer wanted may take a while to leave."""
    running: bool = False
    """Whether it has processes, or has asked for some."""
    retired: str | None = None
    """Why the group cannot be used."""
    incarnation: str | None = None
    members: dict[int, ray.actor.ActorHandle] = field(default_factory=dict)
    """Living workers, by rank."""
    ready: set[int] = field(default_factory=set)
    """Ranks whose set-up has succeeded."""
    joined: bool = False
    """Whether a worker has joined since the group was started."""
    was_ready: bool = False
    """Whether every rank of the present or last incarnation was ready once."""
    failed_starts: int = 0
    """Starts in a row that ended before every rank was ready."""
    idle_since: float = 0.0
    """Seconds of the monotonic clock; a group that starts is idle too."""
    attempts: dict[int, Attempt] = field(default_factory=dict)
    """What the group computes, by generation: one job, or those that share passes."""
    broken_by: set[str] = field(default_factory=set)
    """Jobs with which the group has lost an accelerator since it last ended one."""
    joining: asyncio.Lock = field(default_factory=asyncio.Lock)

    def kill(self) -> None:
        """Kill all living workers."""
        for worker in self.members.values():
            ray.kill(worker)


class GroupKeeper:
    """Lives in the queue's process.

    A worker counts as dead when Ray reports its death, never because it is silent, so a slow job is not taken for a
    dead one.

    Args:
        max_starts: starts in a row that may fail before a group is retired.
        idle_seconds: how long a group may be without work before it is ended.
        on_death: called when all workers of a group's incarnation are dead or dismissed.
        on_change: called when something has happened that a worker or the driver may wait for.
        on_retired: called when a group is retired.
        on_error: called with an error that should not happen.
    """

    def __init__(
        self,
        groups: Sequence[WorkerGroup],
        *,
        max_starts: int,
        idle_seconds: float,
        on_death: Callable[[GroupState], None],
        on_change: Callable[[], Coroutine[Any, Any, None]],
        on_retired: Callable[[GroupState], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self.states = [GroupState(index, group) for index, group in enumerate(groups)]
        self._max_starts = max_starts
        self._idle_seconds = idle_seconds
        self._on_death, self._on_change, self._on_retired, self._on_error = on_death, on_change, on_retired, on_error
        self._starts = 0
        self._bad_nodes: set[str] = set()
        """Ids of nodes on which a set-up has failed; no group is started there again."""
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def usable(self) -> list[GroupState]:
        """The groups that are not retired."""
        return [state for state in self.states if state.retired is None]

    @property
    def running(self) -> int:
        """Number of groups that have processes, or have asked for some."""
        return sum(state.running for state in self.states)

    def may_start(self, needed: int) -> bool:
        """Whether fewer than `needed` groups run, and there is another one that could."""
        return needed > self._wanted and bool(self._resting)

    def start(self, needed: int, queue: ray.actor.ActorHandle, name: str) -> None:
        """Start groups until `needed` run, or all do.

        Args:
            name: of the pool.
        """
        for state in self._resting[: max(0, needed - self._wanted)]:
            state.wanted = state.running = True
            state.idle_since = time.monotonic()
            self.spawn(self._run(state, queue, name))

    def end_idle(self, needed: int) -> None:
        """End groups that have had no work for a while, as long as `needed` ones stay; none in its set-up is ended."""
        spare = self._wanted - needed
        latest = time.monotonic() - self._idle_seconds
        unemployed = [s for s in self.states if s.wanted and not s.attempts and (s.was_ready or not s.incarnation)]
        idle = [state for state in unemployed if state.idle_since < latest]
        for state in sorted(idle, key=lambda state: state.was_ready)[: max(0, spare)]:
            self.dismiss(state)

    def dismiss(self, state: GroupState) -> None:
        """End a group's processes. A job that it has is void."""
        if state.wanted:
            state.wanted = False
            state.group.dismiss()
            self._void(state)

    def retire(self, state: GroupState, reason: str) -> None:
        """End a group for good."""
        if state.retired is None:
            state.retired = reason
            self.dismiss(state)
            self._on_retired(state)

    async def join(self, index: int, incarnation: str, rank: int, worker: ray.actor.ActorHandle) -> None:
        """A worker has started. The first of a new incarnation waits until the previous incarnation is dead.

        A worker of a group that is to leave does not join, and so gets no job.
        """
        state = self.states[index]
        async with state.joining:
            if not state.wanted:
                return
            if state.incarnation != incarnation:
                workers = list(state.members.values())
                state.kill()
                await asyncio.gather(*map(state.group.death, workers))
                self._void(state)
                state.incarnation, state.joined, state.was_ready = incarnation, True, False
        state.members[rank] = worker
        self.spawn(self._watch(state, incarnation, rank, worker))
        await self._on_change()

    async def ready(self, index: int, incarnation: str, rank: int) -> None:
        """A worker's set-up has succeeded."""
        state = self.states[index]
        if state.incarnation != incarnation:
            return
        state.ready.add(rank)
        if len(state.ready) == state.group.settings.workers:
            state.was_ready, state.failed_starts, state.idle_since = True, 0, time.monotonic()
        await self._on_change()

    def set_up_failed(self, index: int, incarnation: str, node: str, reason: str) -> None:
        """A worker's set-up raised: its group is retired, and no other is started on its node."""
        if self.states[index].incarnation == incarnation:
            self._bad_nodes.add(node)
            self.retire(self.states[index], f"set-up failed: {reason}")

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the calls of the queue. An error of it is an error of the pool, not only logged."""

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                self._on_error(error)

        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(ended)

    @property
    def _wanted(self) -> int:
        return sum(state.wanted for state in self.states)

    @property
    def _resting(self) -> list[GroupState]:
        return [state for state in self.usable if not state.running]

    async def _run(self, state: GroupState, queue: ray.actor.ActorHandle, name: str) -> None:
        """Starts a group again and again, until it is dismissed."""
        while state.wanted:
            self._starts += 1
            state.joined = False
            config = WorkerConfig(queue, state.index, state.group.settings, frozenset(self._bad_nodes))
            try:
                state.group.start(config, f"{name}-{self._starts}")
            except ValueError as error:
                self.retire(state, f"Ray rejects its request: {error}")
                break
            reason = await self._end_of(state)
            if state.wanted and not state.joined:
                self._count_failed_start(state, reason)
            if state.failed_starts:
                await asyncio.sleep(RESTART_SECONDS)
        state.running = False
        await self._on_change()

    async def _end_of(self, state: GroupState) -> str:
        """Waits until a group has ended; meanwhile retires it if no node is left that could hold it."""
        ended, misfits = asyncio.ensure_future(state.group.ended()), 0
        while not (await asyncio.wait({ended}, timeout=PLACE_SECONDS))[0]:
            misfit = None
            if state.wanted and state.incarnation is None:
                misfit = await asyncio.to_thread(state.group.misfit, frozenset(self._bad_nodes))
            misfits = 0 if misfit is None else misfits + 1
            if misfit is not None and misfits == MISFITS:
                self.retire(state, misfit)
                await self._on_change()
        return ended.result()

    async def _watch(self, state: GroupState, incarnation: str, rank: int, worker: ray.actor.ActorHandle) -> None:
        """When a worker dies, kill the rest of its group, whose part of the job is void, and free the job."""
        await state.group.death(worker)
        if state.incarnation != incarnation:
            return
        state.members.pop(rank, None)
        state.kill()
        if not state.members:
            self._void(state)
            await self._on_change()

    def _void(self, state: GroupState) -> None:
        """Ends an incarnation whose workers are dead, or get no job any more."""
        if state.incarnation is None:
            return
        state.incarnation, state.members, state.ready = None, {}, set()
        if state.wanted and not state.was_ready:
            self._count_failed_start(state, "a worker died")
        self._on_death(state)

    def _count_failed_start(self, state: GroupState, reason: str) -> None:
        state.failed_starts += 1
        if state.failed_starts >= self._max_starts:
            times = counted(self._max_starts, "time")
            self.retire(state, f"its start failed {times} in a row, the last time because {reason}")
