"""Functions travel to the workers by name."""

import pool_jobs
import pytest

from adapad_ray.distributed import WorkerPool
from adapad_ray.distributed.jobs import reference, resolve


def test_a_name_leads_back_to_its_function():
    assert reference(pool_jobs.run) == "pool_jobs:run"
    assert resolve("pool_jobs:run") is pool_jobs.run


def test_functions_that_a_worker_cannot_import_are_refused():
    with pytest.raises(ValueError, match="module-level function"):
        WorkerPool(lambda context: None, pool_jobs.run)
