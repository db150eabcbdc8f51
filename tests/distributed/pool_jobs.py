"""Set-ups and jobs for the tests of the pool: importable, trivial, and without a model."""

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


def deadly_set_up(context: SetupContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(state: dict[str, Any], payload: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Sleep, speak, fail or die, as the payload says; returns where and how the job ran."""
    state["jobs"] += 1
    began = time.time()
    if "say" in payload:
        context.report(payload["say"])
    if "pid_file" in payload:
        Path(payload["pid_file"]).write_text(str(os.getpid()))
    time.sleep(payload.get("sleep", 0.0))
    if payload.get("die_on_attempt", 0) >= context.attempt:
        os.kill(os.getpid(), signal.SIGKILL)
    if payload.get("raise") == context.rank:
        raise ArithmeticError("the loss is not finite")
    if payload.get("hang") == context.rank:
        time.sleep(600)
    return {
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
