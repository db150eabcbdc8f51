"""What the tests of pools share: running jobs, and finding the processes of a pool."""

import re
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from adapad_ray.distributed import JobOutcome, WorkerPool


def run_jobs(pool: WorkerPool, jobs: Mapping[str, dict[str, Any]]) -> dict[str, JobOutcome]:
    """Submits payloads, by job id; returns the outcomes once every job has one."""
    for job_id, payload in jobs.items():
        pool.submit(job_id, payload)
    return finish(pool, *jobs)


def finish(pool: WorkerPool, *job_ids: str) -> dict[str, JobOutcome]:
    """Waits until every one of these jobs has ended."""
    outcomes: dict[str, JobOutcome] = {}
    while not outcomes.keys() >= set(job_ids):
        outcomes |= {event.job_id: event for event in pool.poll() if isinstance(event, JobOutcome)}
    return {job_id: outcomes[job_id] for job_id in job_ids}


def wait_until_ready(pool: WorkerPool) -> None:
    """Waits until every group of a pool of `pool_jobs` runs a job at the same time: none is still restarting."""
    with tempfile.TemporaryDirectory() as folder:
        run_jobs(pool, {f"meet-{i}": {"meet": [folder, pool.groups]} for i in range(pool.groups)})


def pid_in(path: Path) -> int:
    while not path.exists() or not path.read_text():
        time.sleep(0.02)
    return int(path.read_text())


def launchers() -> list[psutil.Process]:
    """One of each group of several workers; Ray Train's controller runs in it."""
    return processes("ray::Launcher")


def processes(title: str) -> list[psutil.Process]:
    """Those whose title matches, among the processes that this one has started, and no others of the machine."""
    children = psutil.Process().children(recursive=True)
    matches = []
    for process in children:
        with suppress(psutil.NoSuchProcess):
            if re.search(title, " ".join(process.cmdline())):
                matches.append(process)
    return matches


def end(title: str, seconds: float = 60.0) -> bool:
    """Whether the processes of this title end; Ray takes a moment to end an actor."""
    deadline = time.monotonic() + seconds
    while processes(title) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not processes(title)
