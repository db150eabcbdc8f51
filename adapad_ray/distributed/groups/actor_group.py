"""A group of one worker: a Ray actor, and no process besides."""

from __future__ import annotations

import uuid
from typing import Any

import ray
from ray.exceptions import RayError

from adapad_ray.distributed.groups.worker_group import WorkerGroup, death_of, in_one_line, selector, worker_environment
from adapad_ray.distributed.jobs import WorkerConfig


class Worker:
    """The actor. It serves jobs in its main thread, in one call that lasts as long as it lives."""

    def serve(self, config: WorkerConfig) -> None:
        """Serve jobs until the queue lets this worker leave."""
        from adapad_ray.distributed.groups.serving import Position, serve  # torch, which the queue does without

        device = "cuda:0" if config.settings.request.gpus else "cpu"
        serve(config, Position(0, 1, uuid.uuid4().hex, device))


class ActorGroup(WorkerGroup):
    """One worker. Ray reports the end of its only call, and so its death, at once."""

    _worker: Any = None

    def start(self, config: WorkerConfig, name: str) -> None:
        """Create the actor; Ray queues its call until there is room for it."""
        request = self.settings.request
        self._worker = (
            ray.remote(Worker)
            .options(
                num_cpus=request.cpus,
                num_gpus=request.gpus,
                memory=request.memory or None,
                accelerator_type=request.accelerator_type,
                label_selector=selector(config),
                runtime_env={"env_vars": worker_environment(self.settings)},
                name=f"{name}-worker",
            )
            .remote()
        )
        self._serving = self._worker.serve.remote(config)

    async def ended(self) -> str:
        """Wait until the actor is dead; a process that `serve` has left, by an error or without one, is killed."""
        return await _end(self._worker, self._serving)

    def dismiss(self) -> None:
        """Kill the actor, in whatever state it is."""
        if self._worker is not None:
            ray.kill(self._worker)

    async def death(self, worker: Any) -> None:
        """Wait for the end of the actor's call."""
        await _end(worker, self._serving)


async def _end(worker: Any, serving: ray.ObjectRef) -> str:
    try:
        await serving
        reason = "it left"
    except RayError as error:
        reason = in_one_line(error)
    ray.kill(worker)
    await death_of(worker)
    return reason
