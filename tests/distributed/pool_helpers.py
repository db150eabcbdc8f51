"""What the tests of the pool share."""

import re
import time
from contextlib import suppress
from pathlib import Path

import psutil

from adapad_ray.distributed import JobOutcome, WorkerPool

WORKER = r"ray::(RayTrainWorker|adapad:cell-\S+:worker-\d)"
"""Title of a worker without a cell, and with one."""


def finish(pool: WorkerPool) -> dict[str, JobOutcome]:
    return {outcome.job_id: outcome for outcome in pool.completed()}


def pid_in(path: Path) -> int:
    while not path.exists() or not path.read_text():
        time.sleep(0.02)
    return int(path.read_text())


def controllers() -> list[psutil.Process]:
    """Ray Train's controllers."""
    return processes("TrainController")


def processes(title: str) -> list[psutil.Process]:
    """Those whose title matches, among the processes that this one has started, and no others of the machine."""
    mine = psutil.Process().children(recursive=True)
    found = []
    for process in mine:
        with suppress(psutil.NoSuchProcess):
            if re.search(title, " ".join(process.cmdline())):
                found.append(process)
    return found


def end(title: str, seconds: float = 60.0) -> bool:
    """Whether the processes of this title end; Ray takes a moment to end an actor."""
    deadline = time.monotonic() + seconds
    while processes(title) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes(title)
