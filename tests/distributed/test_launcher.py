"""Groups of several workers are built again when their launcher dies, and closed pools free what they hold."""

import tempfile
import time
from pathlib import Path

import pool_jobs
import psutil
import pytest
import ray
from pool_helpers import end, finish, launchers, pid_in, processes, run_jobs
from shared_pools import POOLS

from adapad_ray.distributed import PoolError, WorkerPool

pytestmark = pytest.mark.xdist_group("clusters")


def left_in_temporary_folder(pool: WorkerPool) -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"{pool._name}*"))


def wait_for_free_cpus(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < deadline, "resources are still reserved"
        time.sleep(0.1)


def test_a_group_whose_launcher_is_killed_is_built_again(pair, tmp_path):
    pair.submit("job", {"sleep": 2.0, "pid_file": str(tmp_path / "pid")})
    pid_in(tmp_path / "pid")
    (launcher,) = launchers()
    launcher.kill()
    outcome = finish(pair, "job")["job"]
    assert (outcome.status, outcome.attempts) == ("done", 2)


def test_closing_in_the_middle_of_a_job_is_quick_and_leaves_nothing(pool, pair, tmp_path):
    workers = []
    for name, open_pool in (("actor", pool), ("train", pair)):
        open_pool.submit("endless", {"sleep": 600, "pid_file": str(tmp_path / name)})
        workers.append(pid_in(tmp_path / name))
    began = time.monotonic()
    POOLS.close()
    assert time.monotonic() - began < 8
    assert not left_in_temporary_folder(pair)
    wait_for_free_cpus(5)
    assert psutil.wait_procs([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], timeout=5)[1] == []
    with pytest.raises(PoolError):
        pool.submit("late", {})


@pytest.mark.soak
def test_a_launcher_that_is_killed_while_its_workers_start_leaves_their_resources_to_the_next(idle_cluster):
    """No worker has joined the queue yet, so only Ray has a record of the reserved resources."""
    with WorkerPool(pool_jobs.set_up, pool_jobs.run, workers=2, name="reborn") as pool:
        while ray.available_resources().get("CPU", 0) > 0:
            time.sleep(0.02)
        for process in launchers():
            process.kill()
        value = run_jobs(pool, {"first": {}})["first"].value
        assert (value["rank"], value["threads"]) == (0, 1)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_pool_that_is_closed_while_it_starts_gives_its_resources_back(workers, idle_cluster):
    with WorkerPool(pool_jobs.set_up, pool_jobs.run, workers=workers, name="brief") as pool:
        while not processes("ray::Launcher" if workers > 1 else "ray::Worker"):
            time.sleep(0.02)
    assert end("ray::(Launcher|Worker|JobQueue)", seconds=40), "a process outlived its pool"
    wait_for_free_cpus(40)
    assert not left_in_temporary_folder(pool)
