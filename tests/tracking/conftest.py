"""A fresh SQLite store for every test."""

import pytest

from adapad_ray.tracking.tracker import Tracker
from tests.report.factory import SweepFactory


@pytest.fixture(autouse=True)
def no_address_from_outside(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def factory(tmp_path):
    return SweepFactory(tmp_path / "runs" / "demo", items=50)


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory):
    """Creating a store costs seconds (its migrations), so it is made once and copied."""
    folder = tmp_path_factory.mktemp("store")
    Tracker.open(f"sqlite:///{folder / 'mlflow.db'}", "template", "template").close()
    return folder / "mlflow.db"


@pytest.fixture
def uri(tmp_path, fresh_store):
    (tmp_path / "mlflow.db").write_bytes(fresh_store.read_bytes())
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
