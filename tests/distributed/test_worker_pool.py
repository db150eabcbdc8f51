"""Pools on a real cluster: which group runs a job, with which resources, and which events the driver receives."""

import pool_jobs
import pytest
from pool_helpers import finish, run_jobs, wait_until_ready

from adapad_ray.distributed import JobOutcome, JobProgress, PoolError, WorkerPool, WorkerRequest

pytestmark = pytest.mark.xdist_group("clusters")


def test_two_groups_work_at_the_same_time(pool):
    wait_until_ready(pool)
    outcomes = run_jobs(pool, {"left": {"sleep": 1.0}, "right": {"sleep": 1.0}})
    left, right = outcomes["left"], outcomes["right"]
    assert {left.group, right.group} == {0, 1}
    assert left.value["pid"] != right.value["pid"]
    assert left.value["began"] < right.value["ended"] and right.value["began"] < left.value["ended"]
    assert left.seconds == pytest.approx(1.0, abs=0.5)


def test_the_state_of_a_set_up_is_kept_from_job_to_job(pool):
    outcomes = run_jobs(pool, {f"job-{i}": {"sleep": 0.05} for i in range(8)})
    values = [outcome.value for outcome in outcomes.values()]
    assert {value["shared"]["numbers"].tolist() == [0, 1, 2] for value in values} == {True}
    for pid in {value["pid"] for value in values}:
        counts = sorted(value["jobs_of_this_worker"] for value in values if value["pid"] == pid)
        assert counts == list(range(counts[0], counts[0] + len(counts)))


def test_a_worker_with_less_than_two_cpus_has_one_thread(pool):
    value = run_jobs(pool, {"threads": {}})["threads"].value
    assert (value["threads"], value["omp"]) == (1, "1")


def test_an_exception_fails_its_job_alone(pool):
    outcomes = run_jobs(pool, {"bad": {"raise": 0}, "good": {}})
    bad = outcomes["bad"]
    assert (bad.status, bad.attempts, bad.value) == ("failed", 1, None)
    assert (bad.error.type, bad.error.message) == ("ArithmeticError", "the loss is not finite")
    assert "pool_jobs.py" in bad.error.traceback
    assert outcomes["good"].status == "done"


def test_progress_arrives_before_the_outcome(pool):
    pool.submit("speaker", {"report": {"step": 3}, "sleep": 0.5})
    events = []
    while not (events and isinstance(events[-1], JobOutcome)):
        events.extend(pool.poll())
    assert events[0] == JobProgress("speaker", events[0].group, 1, {"step": 3})


def test_an_id_is_refused_while_its_job_lives_and_free_afterwards(pool):
    pool.submit("twin", {"sleep": 0.3})
    with pytest.raises(ValueError, match="'twin' is already"):
        pool.submit("twin", {})
    finish(pool, "twin")
    assert run_jobs(pool, {"twin": {}})["twin"].status == "done"


def test_every_rank_runs_the_job_and_rank_0_answers(pair):
    outcomes = run_jobs(pair, {"both": {}, "second-rank-fails": {"raise": 1}, "next": {}})
    assert (outcomes["both"].status, outcomes["both"].value["rank"]) == ("done", 0)
    assert (outcomes["second-rank-fails"].status, outcomes["second-rank-fails"].error.type) == (
        "failed",
        "ArithmeticError",
    )
    assert outcomes["next"].status == "done"


def test_a_set_up_that_fails_breaks_the_pool_with_its_traceback(cluster):
    with WorkerPool(pool_jobs.broken_set_up, pool_jobs.run, request=WorkerRequest(0.25), name="broken") as pool:
        pool.submit("never", {})
        with pytest.raises(PoolError, match="OSError: no weights here"):
            finish(pool, "never")
        with pytest.raises(PoolError, match="OSError: no weights here"):
            pool.poll()
