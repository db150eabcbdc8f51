"""What a worker group is to the queue: processes that are started, join the queue, and are gone one day."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.util.placement_group import NODE_ID_LABEL_KEY

from adapad_ray.distributed.cluster import misfit
from adapad_ray.distributed.jobs import WorkerConfig, WorkerSettings
from adapad_ray.distributed.ray_internals import ping

PING_SECONDS = 0.5
"""Interval of the calls that notice the death of a process."""

# Training frees and allocates the same large tensors in every step. By default glibc returns them to the kernel and
# faults them in again, thousands of pages a step. Other allocators ignore these variables. One arena, because a worker
# of Ray Train runs jobs in a thread, and the arenas of threads are small. Older versions reject more than 32 MB.
_KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
}


class WorkerGroup(ABC):
    """The processes of one group. Made by the driver; the queue's process starts them, again and again if need be.

    Every process calls `serve`, and so joins the queue.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings

    def misfit(self, bad_nodes: Collection[str]) -> str | None:
        """Return why no node of the cluster but these can hold the workers, now or later; None if one can."""
        return misfit(self.settings.workers, self.settings.request, bad_nodes)

    @abstractmethod
    def start(self, config: WorkerConfig, name: str) -> None:
        """Ask Ray for the processes. Those of an earlier start have ended.

        Args:
            name: part of the names of actors.
        """

    @abstractmethod
    async def ended(self) -> str:
        """Wait until all processes are gone, dismissed or dead, and no other will come; return why, in one line."""

    @abstractmethod
    def dismiss(self) -> None:
        """End the processes, if there are any, those too that are about to start. The queue gives them no more jobs."""

    @abstractmethod
    async def death(self, worker: Any) -> None:
        """Wait until a worker that has joined is dead."""


def worker_environment(settings: WorkerSettings) -> dict[str, str]:
    """Return the environment variables of a worker process, which libraries read when they are loaded."""
    threads = str(max(1, int(settings.request.cpus)))
    return _KEEP_MEMORY | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


def selector(config: WorkerConfig) -> dict[str, str] | None:
    """Return the labels of the nodes on which a group may be started."""
    labels = dict(config.settings.request.labels)
    if config.bad_nodes:
        labels[NODE_ID_LABEL_KEY] = f"!in({','.join(sorted(config.bad_nodes))})"
    return labels or None


async def death_of(actor: ray.actor.ActorHandle) -> None:
    """Call an actor until it is dead. One that cannot be reached may come back, and may be training meanwhile."""
    while True:
        try:
            await ping(actor)
        except ActorUnavailableError:
            pass
        except RayActorError:
            return
        await asyncio.sleep(PING_SECONDS)


def in_one_line(error: BaseException) -> str:
    """Return the last line of an error's message, which is where Ray has the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
