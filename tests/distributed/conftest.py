"""The pools that tests share."""

from pathlib import Path

import pytest
from pool_helpers import end, wait_until_ready
from shared_pools import POOLS

from adapad_ray.distributed import WorkerPool

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of the launcher come last, because they close the pools that the others share."""
    ours = [item for item in items if HERE in item.path.parents]
    if ours:
        ours.sort(key=lambda item: item.path.name == "test_launcher.py")
        places = [i for i, item in enumerate(items) if HERE in item.path.parents]
        for i, item in zip(places, ours, strict=True):
            items[i] = item


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Gives the cluster's CPUs back before the tests of other folders, which may find it in their process."""
    if nextitem is None or HERE not in nextitem.path.parents:
        POOLS.close()


@pytest.fixture(scope="module")
def pool(cluster: None) -> WorkerPool:
    """Two groups of one worker, both up when a module starts with them."""
    pool = POOLS.open("groups")
    wait_until_ready(pool)
    return pool


@pytest.fixture(scope="module")
def pair(cluster: None) -> WorkerPool:
    """One group of two workers, which computes cells of the tiny task."""
    return POOLS.open("pair")


@pytest.fixture
def idle_cluster(cluster: None) -> None:
    """The cluster without pools."""
    POOLS.close()
    assert end("ray::(Launcher|JobQueue)"), "a process outlived its pool"
