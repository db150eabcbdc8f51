"""The address of the store, its creation, and stores that cannot be used."""

import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient

from adapad_ray.errors import BadRequestError
from adapad_ray.tracking import Tracker, tracking_uri
from tests.ports import free_port
from tests.tracking.helpers import runs


def test_the_environment_wins(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert tracking_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert tracking_uri("sqlite:///mlflow.db") == "http://localhost:5000"


def test_an_unreachable_server_is_a_bad_request_within_seconds():
    port = free_port()
    start = time.monotonic()
    with pytest.raises(BadRequestError, match=f"http://127.0.0.1:{port} cannot be used") as caught:
        Tracker.open(f"http://user:secret@127.0.0.1:{port}", "demo", "demo")
    assert time.monotonic() - start < 30
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_an_address_that_is_no_store_is_a_bad_request(tmp_path):
    (tmp_path / "file").write_text("")
    for uri in (f"sqlite:///{tmp_path}/file/mlflow.db", "nonsense://x", str(tmp_path / "mlruns")):
        with pytest.raises(BadRequestError):
            Tracker.open(uri, "demo", "demo")


def test_a_launch_that_is_killed_while_its_store_is_created_leaves_none(tmp_path):
    path = tmp_path / "mlflow.db"
    command = f"from adapad_ray.tracking import Tracker; Tracker.open('sqlite:///{path}', 'demo', 'demo')"
    process = subprocess.Popen([sys.executable, "-c", command], cwd=tmp_path)
    while not any(file.stat().st_size for file in tmp_path.glob("*.db")):  # the first of some fifty migrations
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not path.exists()
    Tracker.open(f"sqlite:///{path}", "demo", "demo").close()
    assert len(runs(f"sqlite:///{path}")) == 1


def test_a_deleted_experiment_is_named(uri):
    tracker = Tracker.open(uri, "gone", "gone")
    MlflowClient(tracking_uri=uri).delete_experiment(tracker.experiment_id)
    with pytest.raises(BadRequestError, match="'gone' was deleted"):
        Tracker.open(uri, "gone", "gone")
