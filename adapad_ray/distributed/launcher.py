"""The launcher: an actor that keeps the Ray Train run of a worker group alive."""

from __future__ import annotations

import shutil
import uuid
from contextlib import suppress
from typing import Any

from adapad_ray.distributed.jobs import WorkerConfig
from adapad_ray.distributed.ray_internals import lean_torch_trainer, remove_placement_groups_of_this_actor

# Training frees and allocates the same large tensors in every step. By default glibc returns them to the kernel and
# faults them in again, thousands of pages a step. Other allocators ignore these variables. One arena, because a job
# runs in a thread of its own, and the arenas of threads are small. Older versions reject a threshold above 32 MB.
_KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
}


class Launcher:
    """An actor that runs `TorchTrainer.fit` for one worker group, Ray Train's controller included.

    It is a process of its own, because killing it ends its group in any state, and because nothing that Ray Train
    prints or does with signals then reaches the driver. When it dies, Ray restarts it and calls `keep_alive` again.
    """

    def keep_alive(self, config: WorkerConfig, name: str, storage: str) -> None:
        """Return when the pool stops.

        Args:
            name: of Ray Train's runs.
            storage: temporary folder that Ray Train demands.
        """
        import ray.train

        remove_placement_groups_of_this_actor()
        stopped = config.queue.stopped.remote()
        failures = 0
        while not ray.wait([stopped], timeout=1.0 if failures else 0.0)[0]:
            with suppress(ray.train.TrainingFailedError):
                _trainer(config, f"{name}-{uuid.uuid4().hex[:6]}", storage).fit()
            failures += 1
        shutil.rmtree(storage, ignore_errors=True)  # a group that was starting wrote after the driver removed it


def _trainer(config: WorkerConfig, name: str, storage: str) -> Any:
    import ray.train.torch

    from adapad_ray.distributed.worker import serve

    cpus, gpus = config.cpus, config.gpus
    threads = str(max(1, int(cpus)))
    return lean_torch_trainer(
        serve,
        train_loop_config=config,
        # NCCL rejects two ranks on one GPU.
        torch_config=ray.train.torch.TorchConfig(backend="gloo" if gpus < 1 else None),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers,
            use_gpu=gpus > 0,
            resources_per_worker={"CPU": cpus} | ({"GPU": gpus} if gpus else {}),
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=ray.train.FailureConfig(max_failures=-1),
            worker_runtime_env={"env_vars": _KEEP_MEMORY | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
