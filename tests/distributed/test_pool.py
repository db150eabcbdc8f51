"""A pool of two groups on a real cluster. Nearly all tests share one pool, as cells do."""

import os
import signal

import pool_jobs
import pytest
from pool_helpers import finish, pid_in

from adapad_ray.distributed import JobOutcome, JobProgress, WorkerPool, available_groups
from adapad_ray.errors import BadRequestError

pytestmark = pytest.mark.xdist_group("clusters")


def test_two_groups_work_at_the_same_time(pool):
    for job in ("left", "right"):
        pool.submit(job, {"sleep": 1.0})
    outcomes = finish(pool)
    left, right = outcomes["left"], outcomes["right"]
    assert {left.group, right.group} == {0, 1}
    assert left.value["pid"] != right.value["pid"]
    assert left.value["began"] < right.value["ended"] and right.value["began"] < left.value["ended"]
    assert left.seconds == pytest.approx(1.0, abs=0.5)


def test_what_set_up_made_survives_from_job_to_job(pool):
    for i in range(8):
        pool.submit(f"job-{i}", {"sleep": 0.05})
    values = [outcome.value for outcome in finish(pool).values()]
    assert {value["shared"]["numbers"].tolist() == [0, 1, 2] for value in values} == {True}
    for pid in {value["pid"] for value in values}:
        counts = sorted(value["jobs_of_this_worker"] for value in values if value["pid"] == pid)
        assert counts == list(range(counts[0], counts[0] + len(counts)))


def test_a_worker_has_the_threads_of_its_cpus(pool):
    pool.submit("threads", {})
    value = finish(pool)["threads"].value
    assert (value["threads"], value["omp"]) == (1, "1")


def test_an_exception_fails_its_job_alone(pool):
    pool.submit("bad", {"raise": 0})
    pool.submit("good", {})
    outcomes = finish(pool)
    bad = outcomes["bad"]
    assert (bad.status, bad.attempts, bad.value) == ("failed", 1, None)
    assert (bad.error.type, bad.error.message) == ("ArithmeticError", "the loss is not finite")
    assert "pool_jobs.py" in bad.error.traceback
    assert outcomes["good"].status == "done"


def test_progress_arrives_before_the_outcome(pool):
    pool.submit("speaker", {"say": {"step": 3}, "sleep": 0.5})
    news = []
    while not (news and isinstance(news[-1], JobOutcome)):
        news.extend(pool.poll())
    assert news[0] == JobProgress("speaker", news[0].group, 1, {"step": 3})


def test_an_id_is_refused_while_its_job_lives_and_free_afterwards(pool):
    pool.submit("twin", {"sleep": 0.3})
    with pytest.raises(ValueError, match="'twin' is already"):
        pool.submit("twin", {})
    finish(pool)
    pool.submit("twin", {})
    assert finish(pool)["twin"].status == "done"


def test_functions_that_a_worker_cannot_import_are_refused():
    with pytest.raises(ValueError, match="module-level function"):
        WorkerPool(lambda context: None, pool_jobs.run)


def test_a_job_whose_worker_is_killed_runs_again_and_spoils_no_other(pool, tmp_path):
    pool.submit("victim", {"sleep": 2.0, "pid_file": str(tmp_path / "pid")})
    pool.submit("neighbour", {"sleep": 2.0})
    os.kill(pid_in(tmp_path / "pid"), signal.SIGKILL)
    outcomes = finish(pool)
    assert (outcomes["victim"].status, outcomes["victim"].attempts) == ("done", 2)
    assert (outcomes["neighbour"].status, outcomes["neighbour"].attempts) == ("done", 1)


def test_a_job_that_always_kills_its_worker_is_lost_after_max_attempts(pool):
    pool.submit("killer", {"die_on_attempt": 99})
    pool.submit("after", {})
    outcomes = finish(pool)
    killer = outcomes["killer"]
    assert (killer.status, killer.attempts, killer.error.type) == ("lost", 2, "WorkerDied")
    assert outcomes["after"].status == "done"
    pool.wait_ready()


def test_what_does_not_fit_the_cluster_is_refused_with_both_sides_of_the_sum(cluster):
    assert available_groups(1, 1, 0) == 2
    assert available_groups(2, 0.5, 0) == 2
    assert available_groups(2, 1, 0) == 1
    with pytest.raises(
        BadRequestError, match=r"3 workers with 1 CPUs and 0 GPUs each does not fit .* 2 CPUs and 0 GPUs"
    ):
        available_groups(3, 1, 0)
    with pytest.raises(BadRequestError, match="1 GPUs"):
        available_groups(1, 1, 1)
