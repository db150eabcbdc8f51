"""What each worker of a group runs inside Ray Train: set up once, then one job after the other."""

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

from adapad_ray.distributed.jobs import JobContext, JobError, SetupContext, WorkerConfig, resolve
from adapad_ray.training.workers import AttemptLostError


def serve(config: WorkerConfig) -> None:
    """Ray Train's train function: serve jobs until the queue stops, or is gone.

    The jobs run on a thread of their own, so that a pool that is closed can leave in the middle of one: Ray Train then
    ends the processes in good order. What is not an `Exception` (KeyboardInterrupt, SystemExit) leaves this function
    and so restarts the group.
    """
    failure: list[BaseException] = []

    def work() -> None:
        try:
            _work(config, incarnation, rank, world_size)
        except RayActorError:
            pass  # the queue is gone, and the pool with it
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that Ray Train watches
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
    place = SetupContext(group, rank, world_size, config.cpus, config.gpus, device, config.shared)
    try:
        run = resolve(config.run)
        state = resolve(config.setup)(place)
    except Exception as error:  # noqa: BLE001 - whatever it is, the driver is to read it
        ray.get(queue.set_up_failed.remote(group, rank, _describe(error)))
        return
    ray.get(queue.ready.remote(group, rank))

    while (job := ray.get(queue.take.remote(group, incarnation, rank))) is not None:
        token = job.token

        def report(data: dict[str, Any], token: int = token) -> None:
            queue.progress.remote(group, token, data)

        if not ray.get(queue.started.remote(group, token)):
            continue
        value, failed, lost = None, None, False
        context = JobContext(job.job_id, job.attempt, group, rank, world_size, report, job.board, token)
        try:
            value = run(state, job.payload, context)
        except AttemptLostError as error:
            failed, lost = _describe(error), True
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends this job alone
            failed = _describe(error)
        ray.get(queue.finish.remote(group, token, rank, value if rank == 0 else None, failed, lost))


def _describe(error: Exception) -> JobError:
    return JobError(type(error).__name__, str(error), "".join(traceback.format_exception(error)))
