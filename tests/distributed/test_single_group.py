"""Pools of one group, on the CPUs that `test_shutdown` has given back: several ranks, and a set-up that fails."""

import pool_jobs
import pytest
from pool_helpers import finish

from adapad_ray.distributed import PoolError, WorkerPool

pytestmark = pytest.mark.xdist_group("clusters")


def test_every_rank_runs_the_job_and_rank_0_answers(cluster):
    with WorkerPool(pool_jobs.set_up, pool_jobs.run, workers=2, name="wide") as pool:
        pool.submit("both", {})
        pool.submit("second-rank-fails", {"raise": 1})
        pool.submit("next", {})
        outcomes = finish(pool)
    assert (outcomes["both"].status, outcomes["both"].value["rank"]) == ("done", 0)
    assert (outcomes["second-rank-fails"].status, outcomes["second-rank-fails"].error.type) == (
        "failed",
        "ArithmeticError",
    )
    assert outcomes["next"].status == "done"


def test_a_set_up_that_fails_breaks_the_pool_with_its_traceback(cluster):
    with WorkerPool(pool_jobs.broken_set_up, pool_jobs.run, name="broken") as pool:
        pool.submit("never", {})
        with pytest.raises(PoolError, match="OSError: no weights here"):
            list(pool.completed())
        with pytest.raises(PoolError, match="OSError: no weights here"):
            pool.wait_ready()
