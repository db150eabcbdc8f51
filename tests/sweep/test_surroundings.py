"""What a launch needs is checked before anything is loaded: its folder or store, MLflow's store and Ray."""

from __future__ import annotations

import pytest

from adapad_ray import storage
from adapad_ray.errors import BadRequestError
from adapad_ray.storage import WorkingFolder, working_folder
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.sweep.surroundings import check_surroundings
from tests.ports import free_port, silent_server


@pytest.fixture(autouse=True)
def no_services_from_outside(monkeypatch):
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.fixture
def spec(tmp_path):
    return SweepSpec(
        name="demo",
        model="minilm-l6",
        task="rotten-tomatoes",
        methods={"lora": {}},
        budgets=["41472"],
        tracking=f"sqlite:///{tmp_path}/mlflow.db",
    )


def test_nothing_is_written_when_all_is_well(spec, tmp_path):
    check_surroundings(spec, WorkingFolder(f"{tmp_path}/runs/demo", tmp_path / "runs" / "demo"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["/proc/nowhere/runs", "file", "file/runs"])
def test_an_output_folder_that_cannot_be_written(folder, spec, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadRequestError, match=r"output folder .* cannot be written: "):
        check_surroundings(spec, WorkingFolder(str(tmp_path / folder), tmp_path / folder))


def test_a_store_that_does_not_answer(spec, monkeypatch):
    monkeypatch.setattr(storage, "LONGEST_WAIT", 0.5)
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with silent_server() as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with working_folder("s3://bucket/runs") as folder, pytest.raises(BadRequestError, match="s3://bucket/runs"):
            check_surroundings(spec, folder)


def test_a_ray_cluster_that_is_gone(spec, tmp_path, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests of this process may have a cluster
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(BadRequestError, match="no Ray cluster answers"):
        check_surroundings(spec, WorkingFolder(str(tmp_path), tmp_path))


def test_a_tracking_server_that_is_down(spec, tmp_path):
    down = spec.model_copy(update={"tracking": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(BadRequestError, match=r"MLflow's store .* cannot be used"):
        check_surroundings(down, WorkingFolder(str(tmp_path), tmp_path))
