"""A worker group without processes, for tests of the queue without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Any

from adapad_ray.distributed.capacity import WorkerRequest
from adapad_ray.distributed.groups.worker_group import WorkerGroup
from adapad_ray.distributed.job_queue import JobQueue
from adapad_ray.distributed.jobs import JobError, WorkerConfig, WorkerSettings


class Crew(WorkerGroup):
    """A group of one worker, which a test lets join, work and die."""

    def __init__(self) -> None:
        super().__init__(WorkerSettings(1, "", "", WorkerRequest(), {}, run_together=""))
        self.starts = 0
        self.node = f"node-{id(self)}"
        self._started, self._gone = asyncio.Event(), asyncio.Event()
        self.fits = True

    def misfit(self, bad_nodes: Collection[str]) -> str | None:
        return None if self.fits else "no node holds it"

    def start(self, config: WorkerConfig, name: str) -> None:
        self.starts += 1
        self.life = f"life-{self.starts}"
        self.config = config
        self._gone = asyncio.Event()
        self._started.set()

    async def ended(self) -> str:
        await self._gone.wait()
        return "somebody killed it"

    def dismiss(self) -> None:
        self._started.clear()
        self._gone.set()

    die = dismiss

    async def death(self, worker: Any) -> None:
        await self._gone.wait()

    @property
    def runs(self) -> bool:
        return self._started.is_set()

    async def join(self, queue: JobQueue) -> None:
        """Waits until the queue has started this group, and joins it."""
        await self._started.wait()
        await queue.join(self.config.group, self.life, 0, self)

    async def up(self, queue: JobQueue) -> None:
        await self.join(queue)
        await queue.ready(self.config.group, self.life, 0)

    async def fail_set_up(self, queue: JobQueue, message: str = "no weights here") -> None:
        await self.join(queue)
        await queue.set_up_failed(self.config.group, self.life, self.node, JobError("OSError", message))

    async def take(self, queue: JobQueue) -> Any:
        return await queue.take(self.config.group, self.life, 0)

    async def work(
        self, queue: JobQueue, value: Any = None, error: JobError | None = None, lost: bool = False
    ) -> tuple[str, int]:
        """Takes the next job, starts it and ends it; returns its id and attempt."""
        job = await self.take(queue)
        assert await queue.started(self.config.group, job.generation)
        await queue.finish(self.config.group, job.generation, 0, value, error, lost)
        return job.job_id, job.attempt

    async def lose_accelerator(self, queue: JobQueue) -> Any:
        """Takes the next job and dies of it."""
        job = await self.take(queue)
        assert await queue.started(self.config.group, job.generation)
        error = JobError("AcceleratorError", "CUDA error: unknown\nCompile with TORCH_USE_CUDA_DSA")
        await queue.accelerator_lost(self.config.group, job.generation, 0, error)
        self.die()
        return job


def run_queue(
    scene: Callable[..., Awaitable[None]], groups: int, idle_seconds: float = 60.0, seconds: float = 20.0
) -> None:
    """Runs `scene(queue, *crews)` on a queue that has started its groups, none of which is up yet.

    Args:
        seconds: the most that the scene may take.
    """

    async def main() -> None:
        crews = [Crew() for _ in range(groups)]
        queue = JobQueue(crews, max_attempts=2, idle_seconds=idle_seconds)
        await queue.open_as(queue, "pool")
        await asyncio.wait_for(scene(queue, *crews), seconds)
        for task in list(queue._keeper._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(main())
