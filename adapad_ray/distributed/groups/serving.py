"""What each worker process does: one set-up, then one job after another."""

from __future__ import annotations

import logging
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError

from adapad_ray.accelerator import AcceleratorLostError, free_memory, is_lost
from adapad_ray.distributed.jobs import JobContext, JobError, SetupContext, WorkerConfig, resolve
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
        state = resolve(settings.setup)(context)
    except Exception as error:  # noqa: BLE001 - the driver reports it, whatever it is
        _log.exception("set-up of rank %d of group %d failed", rank, group)
        node = ray.get_runtime_context().get_node_id()
        ray.get(queue.set_up_failed.remote(group, position.incarnation, node, _describe(error)))
        return
    ray.get(queue.ready.remote(group, position.incarnation, rank))

    while (job := ray.get(queue.take.remote(group, position.incarnation, rank))) is not None:
        generation = job.generation

        def report(data: dict[str, Any], generation: int = generation) -> None:
            queue.progress.remote(group, generation, data)

        if not ray.get(queue.started.remote(group, generation)):
            continue
        value, failed, lost = None, None, False
        execution = JobContext(job.job_id, job.attempt, group, rank, position.world_size, report, job.board, generation)
        try:
            value = run(state, job.payload, execution)
        except AttemptLostError as error:
            failed, lost = _describe(error), True
        except Exception as error:
            failed = _describe(error)
            if is_lost(error):
                ray.get(queue.accelerator_lost.remote(group, generation, rank, failed))
                raise AcceleratorLostError(failed.message) from error
        if failed is not None:
            free_memory(device)
        ray.get(queue.finish.remote(group, generation, rank, value if rank == 0 else None, failed, lost))


def _describe(error: Exception) -> JobError:
    return JobError(type(error).__name__, str(error), "".join(traceback.format_exception(error)))
