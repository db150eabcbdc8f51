"""Sweeps in this process share worker groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from shared_workers import WORKERS

from adapad_ray.sweep import run

HERE = Path(__file__).parent


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Gives the cluster's CPUs back before the tests of other folders, which may find it in their process."""
    if nextitem is None or HERE not in nextitem.path.parents:
        WORKERS.close()


@pytest.fixture(scope="module")
def shared_workers(cluster: None) -> Iterator[None]:
    """The sweeps of a module run on the session's cluster, in worker groups that stay open for the next sweep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "ray_executor", WORKERS.executor)
        yield
