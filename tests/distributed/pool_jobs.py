"""Set-ups and jobs for the tests of pools, importable by their workers."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import ray
import torch

from adapad_ray.distributed import JobContext, SetupContext


def set_up(context: SetupContext) -> dict[str, Any]:
    shared = {name: ray.get(ref) for name, ref in context.shared.items()}
    return {"pid": os.getpid(), "set_ups": 1, "jobs": 0, "shared": shared, "context": context}


def broken_set_up(context: SetupContext) -> None:
    raise OSError("no weights here")


def run(state: dict[str, Any], payload: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Sleeps, reports, fails or dies, as the payload says; returns where and how the job ran."""
    state["jobs"] += 1
    began = time.time()
    if "report" in payload:
        context.report(payload["report"])
    if "meet" in payload:
        folder, jobs = payload["meet"]
        (Path(folder) / context.job_id).touch()
        while len(list(Path(folder).iterdir())) < jobs:
            time.sleep(0.02)
    if "pid_file" in payload and context.attempt == 1:  # a later attempt may be quicker than the reader of the file
        Path(payload["pid_file"]).write_text(str(os.getpid()))
    time.sleep(payload.get("sleep", 0.0))
    if payload.get("die_on_attempt", 0) >= context.attempt:
        os.kill(os.getpid(), signal.SIGKILL)
    if payload.get("accelerator_fails_on_attempt", 0) >= context.attempt:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered (simulated)")
    if payload.get("raise") == context.rank:
        raise ArithmeticError("the loss is not finite")
    paused = {} if payload.get("pause_at") is None else {"paused": payload["pause_at"]}
    return {
        **paused,
        "pid": os.getpid(),
        "rank": context.rank,
        "attempt": context.attempt,
        "jobs_of_this_worker": state["jobs"],
        "shared": state["shared"],
        "began": began,
        "ended": time.time(),
        "threads": torch.get_num_threads(),
        "omp": os.environ["OMP_NUM_THREADS"],
        "score": payload.get("x", 0.0),
    }


def open_workspace_and_state(context: SetupContext) -> dict[str, Any]:
    """The set-up of a pool that computes cells as well as the jobs above."""
    from adapad_ray.distributed.cell_jobs import open_workspace

    return {"workspace": open_workspace(context), "jobs": 0, "shared": {}}


def compute_or_run(state: dict[str, Any], payload: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Computes a cell if the payload has an identity, else runs one of the jobs above; either value has the `pid`."""
    if "identity" not in payload:
        return run(state, payload, context)
    from adapad_ray.distributed.cell_jobs import compute

    return {**compute(state["workspace"], payload, context), "pid": os.getpid()}
