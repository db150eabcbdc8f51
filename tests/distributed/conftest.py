"""A small local cluster: two logical CPUs, whatever the machine has."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from pool_helpers import end

from adapad_ray.distributed import WorkerPool, connect


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Workers inherit the environment, and so find the functions of `pool_jobs`."""
    here = str(Path(__file__).parent)
    package = str(Path(__file__).parents[2])
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([here, package] + ([path] if path else []))
    sys.path.insert(0, here)
    try:
        with connect(num_cpus=2, object_store_memory=160_000_000):
            yield
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


@pytest.fixture(scope="module")
def pool(cluster: None) -> Iterator[WorkerPool]:
    """Two groups of one worker; a job may start twice. They hold both CPUs, so each module has its own."""
    import pool_jobs

    assert end("TrainController"), "a controller outlived the pool of another module"
    shared = {"numbers": ray.put(np.arange(3))}
    with WorkerPool(pool_jobs.set_up, pool_jobs.run, groups=2, shared=shared, max_attempts=2, name="test") as pool:
        pool.wait_ready()
        yield pool
