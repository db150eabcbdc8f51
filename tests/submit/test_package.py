"""What `adapad submit` uploads, and which sweeps it rejects before it connects to a cluster."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapad_ray.errors import BadRequestError
from adapad_ray.submit import package
from adapad_ray.submit.package import Request, packed
from adapad_ray.sweep.spec_file import load_spec

SHARED = Path("/mnt/shared")


@pytest.fixture
def write(tmp_path: Path, reviews: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a sweep that can be submitted, with changes, and returns its path."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "film").mkdir()
    (tmp_path / "film" / "train.csv").write_bytes(reviews.read_bytes())
    content: dict[str, Any] = {
        "model": "minilm-l6",
        "task": {"train": "film/train.csv", "test": "/mnt/shared/test.csv", "text": "review", "label": "stars"},
        "methods": {"lora": {}},
        "budgets": ["41472"],
        "storage": "/mnt/shared/runs",
        "tracking": "http://mlflow:5000",
    }

    def write(**changes: Any) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return path

    return write


def test_the_package_the_file_and_local_data_are_uploaded_and_nothing_else(write, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / ".venv").mkdir()
    with packed(Request(write(), ("seeds=[7, 8]",), (SHARED,))) as sweep:
        top = {path.name for path in sweep.folder.iterdir()}
        assert top == {"adapad_ray", "adapad-job.json", "entrypoint.py", "sweep.yaml", "data"}
        assert not list(sweep.folder.rglob("__pycache__"))
        assert list(sweep.folder.rglob("*.j2")), "templates are part of the package"
        program, script, *arguments = shlex.split(sweep.entrypoint)
        assert (program, script) == ("python", "entrypoint.py")
        spec = load_spec(sweep.folder / arguments[0], arguments[1:])
        assert spec.seeds == [7, 8]
        assert spec.task.train == "data/task.train/film/train.csv"
        assert (sweep.folder / spec.task.train).read_bytes() == (tmp_path / "film" / "train.csv").read_bytes()
        assert spec.task.test == "/mnt/shared/test.csv", "every node has it"
        assert sweep.environment == {}
        folder = sweep.folder
    assert not folder.exists()


def test_a_data_file_of_any_name_is_uploaded_under_that_name(write, tmp_path):
    folder = tmp_path / "a?b #c%d: [1]"
    folder.mkdir()
    (folder / "007 'x', \"ü\".csv").write_bytes((tmp_path / "film" / "train.csv").read_bytes())
    file = f"{folder.name}/007 'x', \"ü\".csv"
    with packed(Request(write(task={"train": file, "text": "review", "label": "stars"}), (), (SHARED,))) as sweep:
        _, _, *arguments = shlex.split(sweep.entrypoint)
        spec = load_spec(sweep.folder / arguments[0], arguments[1:])
        assert spec.task.train == f"data/task.train/{file}"
        assert (sweep.folder / spec.task.train).exists()


def test_the_tracking_address_of_the_environment_is_passed_on(write, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    with packed(Request(write(tracking="sqlite:///mlflow.db"), shared=(SHARED,))) as sweep:
        assert sweep.environment == {"MLFLOW_TRACKING_URI": "https://mlflow.example"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"storage": "runs"}, "storage 'runs' would be deleted with the job's temporary folder"),
        ({"storage": "/home/ann/runs"}, "storage '/home/ann/runs' may exist on one node only"),
        ({"storage": "/mnt/shared/../home/runs"}, "may exist on one node only"),
        ({"storage": "file:///home/ann/runs"}, "may exist on one node only"),
        ({"storage": "memory://runs"}, "is the memory of one process"),
        ({"storage": "ftp://ann:secret@host/runs"}, "storage holds a password"),
        ({"storage": "nfs4://host/runs"}, "has a scheme that fsspec does not support"),
        ({"tracking": "sqlite:///mlflow.db"}, "tracking 'sqlite:///mlflow.db' would be deleted"),
        ({"tracking": "sqlite:////home/ann/mlflow.db"}, "would be deleted"),
        ({"model": "/home/ann/model"}, "model folder '/home/ann/model' may exist on one node only"),
        ({"task": {"train": "nowhere.csv"}}, "task.train 'nowhere.csv' does not exist on this machine"),
    ],
)
def test_a_sweep_whose_results_or_inputs_the_cluster_would_miss_is_rejected(changes, message, write):
    with pytest.raises(BadRequestError) as caught, packed(Request(write(**changes), shared=(SHARED,))):
        pass
    assert message in str(caught.value)


def test_a_tracking_database_on_shared_storage_is_accepted(write):
    with packed(Request(write(tracking="sqlite:////mnt/shared/mlflow.db"), shared=(SHARED,))) as sweep:
        assert sweep.metadata["adapad.storage"] == "/mnt/shared/runs"


def test_a_password_in_the_tracking_address_is_rejected_and_not_repeated(write, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:hunter2@mlflow.example")
    with pytest.raises(BadRequestError) as caught, packed(Request(write(), shared=(SHARED,))):
        pass
    assert "MLFLOW_TRACKING_PASSWORD" in str(caught.value) and "hunter2" not in str(caught.value)


def test_data_that_are_too_large_to_upload_are_rejected(write, monkeypatch):
    monkeypatch.setattr(package, "LARGEST_UPLOAD", 1000)
    with pytest.raises(BadRequestError) as caught, packed(Request(write(), shared=(SHARED,))):
        pass
    assert "train.csv below a folder that all nodes share" in str(caught.value)
