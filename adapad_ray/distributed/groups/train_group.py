"""A group of several workers: Ray Train starts them, and connects them for torch's collective operations."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from adapad_ray.distributed.groups.worker_group import WorkerGroup, death_of, in_one_line, selector, worker_environment
from adapad_ray.distributed.jobs import WorkerConfig, WorkerSettings
from adapad_ray.distributed.ray_internals import (
    TRAIN_ENVIRONMENT,
    lean_torch_trainer,
    remove_placement_groups_of,
)

LEAVE_SECONDS = 10.0
"""How long the processes of a dismissed group may take to leave."""


class TrainGroup(WorkerGroup):
    """Several workers, and a launcher on the driver's node.

    Ray Train replaces dead workers, and Ray a dead launcher, so the group ends only when it is dismissed.

    Args:
        environment: environment variables of the launcher, which configure Ray Train.
    """

    _dismissed: asyncio.Event | None = None

    def __init__(self, settings: WorkerSettings, environment: Mapping[str, str]) -> None:
        super().__init__(settings)
        self._environment = {**TRAIN_ENVIRONMENT, **environment}

    def start(self, config: WorkerConfig, name: str) -> None:
        """Start the launcher on this node, where the queue and the driver are."""
        self._name, self._dismissed = name, asyncio.Event()
        self._launcher: Any = (
            ray.remote(Launcher)
            .options(
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=-1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
                runtime_env={"env_vars": self._environment},
                name=f"{name}-launcher",
            )
            .remote()
        )
        self._running = self._launcher.keep_alive.remote(config, name)

    async def ended(self) -> str:
        """Wait until the launcher's call has returned, then end its process.

        A launcher that stays after the group's dismissal is killed: it waits for its workers, perhaps for ever.
        """
        running = asyncio.ensure_future(self._running)  # type: ignore[arg-type]
        assert self._dismissed is not None
        dismissed = asyncio.ensure_future(self._dismissed.wait())
        await asyncio.wait({running, dismissed}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({running}, timeout=LEAVE_SECONDS)
        dismissed.cancel()
        if running.done():
            error = running.exception()
            reason = "it left" if error is None else in_one_line(error)
        else:
            reason = "it did not leave"
            running.add_done_callback(asyncio.Future.exception)  # retrieved, or asyncio logs it
        ray.kill(self._launcher)
        remove_placement_groups_of(self._launcher)
        shutil.rmtree(_storage(self._name), ignore_errors=True)
        return reason

    def dismiss(self) -> None:
        """Let the processes leave: they ask the queue, the workers in the middle of a job too."""
        if self._dismissed is not None:
            self._dismissed.set()

    async def death(self, worker: Any) -> None:
        """Call the worker until it is dead."""
        await death_of(worker)


class Launcher:
    """An actor that runs `TorchTrainer.fit` for one worker group, Ray Train's controller included.

    It is a process of its own, because killing it ends its group in any state, and because nothing that Ray Train
    prints or does with signals then reaches the driver. When it dies, Ray restarts it and calls `keep_alive` again.
    """

    def keep_alive(self, config: WorkerConfig, name: str) -> None:
        """Return when the group is dismissed.

        Args:
            name: of Ray Train's runs, and of the temporary folder that Ray Train demands.
        """
        import ray.train

        remove_placement_groups_of(ray.get_runtime_context().current_actor)
        dismissed = config.queue.dismissed.remote(config.group)
        failures = 0
        while not ray.wait([dismissed], timeout=1.0 if failures else 0.0)[0]:
            with suppress(ray.train.TrainingFailedError):
                _trainer(config, f"{name}-{uuid.uuid4().hex[:6]}", str(_storage(name))).fit()
            failures += 1


def _storage(name: str) -> Path:
    return Path(tempfile.gettempdir()) / name


def serve_in_train(config: WorkerConfig) -> None:
    """Serve jobs until the group is dismissed or the queue is gone; the train function that Ray Train calls.

    Jobs run in a thread of their own, so that this function can return in the middle of one when the pool is closed,
    and Ray Train ends the processes in good order. An error that leaves `serve` leaves this function too, and restarts
    the group.
    """
    import ray.train
    import ray.train.collective
    import ray.train.torch

    from adapad_ray.distributed.groups.serving import Position, serve

    failure: list[BaseException] = []

    def work() -> None:
        try:
            serve(config, position)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that Ray Train watches
            failure.append(error)

    context = ray.train.get_context()
    incarnation = ray.train.collective.broadcast_from_rank_zero(uuid.uuid4().hex)
    device = str(ray.train.torch.get_device())
    position = Position(context.get_world_rank(), context.get_world_size(), incarnation, device)
    dismissed = config.queue.dismissed.remote(config.group)
    thread = threading.Thread(target=work, name="jobs", daemon=True)
    thread.start()
    while thread.is_alive():
        if ray.wait([dismissed], timeout=1.0)[0]:
            return
    if failure:
        raise failure[0]


def _trainer(config: WorkerConfig, name: str, storage: str) -> Any:
    import ray.train.torch

    settings, request = config.settings, config.settings.request
    return lean_torch_trainer(
        serve_in_train,
        train_loop_config=config,
        # NCCL rejects two ranks on one GPU.
        torch_config=ray.train.torch.TorchConfig(backend="gloo" if request.gpus < 1 else None),
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers,
            use_gpu=request.gpus > 0,
            resources_per_worker=request.resources,
            label_selector=selector(config),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=ray.train.FailureConfig(max_failures=-1),
            worker_runtime_env={"env_vars": worker_environment(settings)},
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
