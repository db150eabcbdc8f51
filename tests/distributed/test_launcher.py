"""Groups are built again when their launcher dies, and a closed pool frees its resources in any state."""

import time
from pathlib import Path

import pool_jobs
import pytest
import ray
from pool_helpers import finish, launchers, pid_in, run_jobs
from shared_pools import POOLS

from adapad_ray.distributed import PoolError, WorkerPool

pytestmark = pytest.mark.xdist_group("clusters")


def test_groups_whose_launchers_are_killed_are_built_again(only_pool, tmp_path):
    for job in ("left", "right"):
        only_pool.submit(job, {"sleep": 2.0, "pid_file": str(tmp_path / job)})
    for job in ("left", "right"):
        pid_in(tmp_path / job)
    assert len(launchers()) == 2
    for process in launchers():
        process.kill()
    outcomes = finish(only_pool, "left", "right")
    assert [(outcome.status, outcome.attempts) for outcome in outcomes.values()] == [("done", 2), ("done", 2)]


def test_closing_in_the_middle_of_a_job_is_quick_and_leaves_nothing(only_pool, tmp_path):
    only_pool.submit("endless", {"sleep": 600, "pid_file": str(tmp_path / "pid")})
    worker = pid_in(tmp_path / "pid")
    began = time.monotonic()
    POOLS.close()
    assert time.monotonic() - began < 5
    assert not Path(only_pool._storage).exists()
    deadline = time.monotonic() + 5
    while ray.available_resources().get("CPU", 0) < 2 or Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline, "a worker or its CPUs outlived the pool"
        time.sleep(0.1)
    with pytest.raises(PoolError):
        only_pool.submit("late", {})


def test_a_launcher_that_is_killed_while_its_workers_start_leaves_their_resources_to_the_next(idle_cluster):
    """No worker has joined the queue yet, so only Ray has a record of the reserved resources."""
    with WorkerPool(pool_jobs.set_up, pool_jobs.run, workers=2, name="reborn") as pool:
        while ray.available_resources().get("CPU", 0) > 0:
            time.sleep(0.02)
        for process in launchers():
            process.kill()
        value = run_jobs(pool, {"first": {}})["first"].value
        assert (value["rank"], value["threads"]) == (0, 1)


def test_a_pool_that_is_closed_while_it_starts_gives_its_resources_back(idle_cluster):
    with WorkerPool(pool_jobs.set_up, pool_jobs.run, name="brief") as pool:
        while not launchers():
            time.sleep(0.1)
    deadline = time.monotonic() + 40
    while launchers():
        assert time.monotonic() < deadline, "a launcher outlived its pool"
        time.sleep(0.1)
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < deadline, "resources are still reserved"
        time.sleep(0.1)
    while Path(pool._storage).exists():
        assert time.monotonic() < deadline, "the temporary folder outlived its pool"
        time.sleep(0.1)
