"""The train function of each worker of a group: one set-up, then one job after another."""

from __future__ import annotations

import threading
import traceback
import uuid
from typing import Any

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
from ray.exceptions import RayActorError

from adapad_ray.accelerator import AcceleratorLostError, free_memory, is_lost, limit_memory
from adapad_ray.distributed.jobs import JobContext, JobError, SetupContext, WorkerConfig, resolve
from adapad_ray.training.workers import AttemptLostError


def serve(config: WorkerConfig) -> None:
    """Serve jobs until the queue stops or is gone; the train function that Ray Train calls.

    Jobs run in a thread of their own, so that this function can return in the middle of one when the pool is closed,
    and Ray Train ends the processes in good order. An error that is not an `Exception` (KeyboardInterrupt, SystemExit),
    or that costs this process its accelerator, leaves this function and restarts the group.
    """
    failure: list[BaseException] = []

    def work() -> None:
        try:
            _work(config, incarnation, rank, world_size)
        except RayActorError:
            pass  # the queue is gone, and so is the pool
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that Ray Train watches
            failure.append(error)

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    incarnation = ray.train.collective.broadcast_from_rank_zero(uuid.uuid4().hex)
    stopped = config.queue.stopped.remote()
    thread = threading.Thread(target=work, name="jobs", daemon=True)
    thread.start()
    while thread.is_alive():
        if ray.wait([stopped], timeout=1.0)[0]:
            return
    if failure:
        raise failure[0]


def _work(config: WorkerConfig, incarnation: str, rank: int, world_size: int) -> None:
    queue, group = config.queue, config.group
    torch.set_num_threads(max(1, int(config.cpus)))
    myself = ray.get_runtime_context().current_actor
    ray.get(queue.join.remote(group, incarnation, rank, myself))
    device = str(ray.train.torch.get_device())
    context = SetupContext(group, rank, world_size, config.cpus, config.gpus, device, config.shared)
    try:
        limit_memory(device, config.gpus)
        run = resolve(config.run)
        state = resolve(config.setup)(context)
    except Exception as error:  # noqa: BLE001 - the driver reports it, whatever it is
        ray.get(queue.set_up_failed.remote(group, rank, _describe(error)))
        return
    ray.get(queue.ready.remote(group, rank))

    while (job := ray.get(queue.take.remote(group, incarnation, rank))) is not None:
        generation = job.generation

        def report(data: dict[str, Any], generation: int = generation) -> None:
            queue.progress.remote(group, generation, data)

        if not ray.get(queue.started.remote(group, generation)):
            continue
        value, failed, lost, accelerator_lost = None, None, False, False
        execution = JobContext(job.job_id, job.attempt, group, rank, world_size, report, job.board, generation)
        try:
            value = run(state, job.payload, execution)
        except AttemptLostError as error:
            failed, lost = _describe(error), True
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends this job only
            failed = _describe(error)
            lost = accelerator_lost = is_lost(error)
        if failed is not None and not accelerator_lost:
            free_memory(device)
        ray.get(queue.finish.remote(group, generation, rank, value if rank == 0 else None, failed, lost))
        if accelerator_lost:
            raise AcceleratorLostError(failed)


def _describe(error: Exception) -> JobError:
    return JobError(type(error).__name__, str(error), "".join(traceback.format_exception(error)))
