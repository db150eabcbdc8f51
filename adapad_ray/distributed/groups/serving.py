"""What each worker process does: one set-up, then one job after another, or several together."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError

from adapad_ray.accelerator import AcceleratorLostError, free_memory, is_lost
from adapad_ray.distributed.jobs import Assignment, JobContext, JobError, SetupContext, WorkerConfig, resolve
from adapad_ray.training.workers import AttemptLostError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """Where a worker stands in its group."""

    rank: int
    world_size: int
    incarnation: str
    """The same text in all workers of the group that started together."""
    device: str
    """As torch spells it."""


def serve(config: WorkerConfig, position: Position) -> None:
    """Serve jobs until the queue lets this worker leave, or is gone, and the pool with it.

    Raises:
        AcceleratorLostError: this process can no longer use its accelerator; a new one can.
    """
    with suppress(RayActorError):
        _serve(config, position)


def _serve(config: WorkerConfig, position: Position) -> None:
    queue, group, settings = config.queue, config.group, config.settings
    rank, device = position.rank, position.device
    torch.set_num_threads(max(1, int(settings.request.cpus)))
    ray.get(queue.join.remote(group, position.incarnation, rank, ray.get_runtime_context().current_actor))
    request = settings.request
    context = SetupContext(group, rank, position.world_size, request.cpus, request.gpus, device, settings.shared)
    try:
        run = resolve(settings.run)
        run_together = None if settings.run_together is None else resolve(settings.run_together)
        state = resolve(settings.setup)(context)
    except Exception as error:  # noqa: BLE001 - the driver reports it, whatever it is
        _log.exception("set-up of rank %d of group %d failed", rank, group)
        node = ray.get_runtime_context().get_node_id()
        ray.get(queue.set_up_failed.remote(group, position.incarnation, node, _describe(error)))
        return
    ray.get(queue.ready.remote(group, position.incarnation, rank))

    while (first := ray.get(queue.take.remote(group, position.incarnation, rank))) is not None:
        lease = _Lease(queue, context, (first, *first.beside))
        try:
            if len(lease.jobs) > 1 and run_together is not None:
                run_together(state, lease.payloads, lease.jobs, lease.answer)
            for job_id, job in lease.open.items():
                lease.answer(job_id, run(state, lease.payloads[job_id], job))
        except Exception as error:  # noqa: BLE001 - the driver reports it, whatever it is
            lease.fail(error)


class _Lease:
    """The jobs that a worker has taken at one time, and its answers to the queue."""

    def __init__(self, queue: ray.actor.ActorHandle, setup: SetupContext, assignments: Sequence[Assignment]) -> None:
        self._queue, self._setup = queue, setup
        started = [a for a in assignments if ray.get(queue.started.remote(setup.group, a.generation))]
        self.payloads = {a.job_id: a.payload for a in started}
        self.jobs = {a.job_id: self._context(a) for a in started}
        self._answered: set[str] = set()

    @property
    def open(self) -> dict[str, JobContext]:
        """The jobs without an answer."""
        return {job_id: job for job_id, job in self.jobs.items() if job_id not in self._answered}

    def _context(self, assignment: Assignment) -> JobContext:
        queue, setup, generation = self._queue, self._setup, assignment.generation

        def report(data: dict[str, Any]) -> None:
            queue.progress.remote(setup.group, generation, data)

        return JobContext(
            assignment.job_id,
            assignment.attempt,
            setup.group,
            setup.rank,
            setup.world_size,
            report,
            assignment.board,
            generation,
        )

    def answer(self, job_id: str, end: Any) -> None:
        """Send what a job returned, or the exception that ended it."""
        self._answered.add(job_id)
        rank = self._setup.rank
        value, failed, lost = (end if rank == 0 else None), None, False
        if isinstance(end, Exception):
            value, failed, lost = None, _describe(end), isinstance(end, AttemptLostError)
            free_memory(self._setup.device)
        ray.get(self._queue.finish.remote(self._setup.group, self.jobs[job_id].generation, rank, value, failed, lost))

    def fail(self, error: Exception) -> None:
        """Send an error as the answer to every job without one.

        Raises:
            AcceleratorLostError: this process cannot use its accelerator after `error`.
        """
        unanswered = list(self.open)
        if not is_lost(error):
            for job_id in unanswered:
                self.answer(job_id, error)
            return
        failed, setup = _describe(error), self._setup
        for job_id in unanswered[1:]:  # the loss counts once
            self.answer(job_id, AttemptLostError(failed.message))
        for job_id in unanswered[:1]:
            lost = self._queue.accelerator_lost
            ray.get(lost.remote(setup.group, self.jobs[job_id].generation, setup.rank, failed))
        raise AcceleratorLostError(failed.message) from error


def _describe(error: Exception) -> JobError:
    return JobError(type(error).__name__, str(error), "".join(traceback.format_exception(error)))
