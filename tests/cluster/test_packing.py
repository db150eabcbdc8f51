"""What `adapad submit` sends, and what it refuses to send before it speaks to anybody."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapad_ray.errors import BadRequestError
from adapad_ray.submit import entrypoint, package
from adapad_ray.submit.package import Request, packed
from adapad_ray.sweep.spec import load_spec

SHARED = Path("/mnt/shared")


@pytest.fixture
def write(tmp_path: Path, reviews: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a sweep that may travel, with changes; returns its path."""
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


def test_the_package_the_file_and_local_data_travel_and_nothing_else(write, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / ".venv").mkdir()
    with packed(Request(write(), ("seeds=[7, 8]",), (SHARED,))) as sweep:
        top = {path.name for path in sweep.folder.iterdir()}
        assert top == {"adapad_ray", "adapad-launch.json", "launch.py", "sweep.yaml", "data"}
        assert not list(sweep.folder.rglob("__pycache__"))
        assert list(sweep.folder.rglob("*.j2")), "templates are part of the package"
        program, script, *arguments = shlex.split(sweep.entrypoint)
        assert (program, script) == ("python", "launch.py")
        spec = load_spec(sweep.folder / arguments[0], arguments[1:])
        assert spec.seeds == [7, 8]
        assert spec.task.train == "data/task.train/film/train.csv"
        assert (sweep.folder / spec.task.train).read_bytes() == (tmp_path / "film" / "train.csv").read_bytes()
        assert spec.task.test == "/mnt/shared/test.csv", "every node has it"
        assert sweep.environment == {}
        folder = sweep.folder
    assert not folder.exists()


def test_an_mlflow_address_of_the_environment_travels_too(write, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    with packed(Request(write(tracking="sqlite:///mlflow.db"), shared=(SHARED,))) as sweep:
        assert sweep.environment == {"MLFLOW_TRACKING_URI": "https://mlflow.example"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"storage": "runs"}, "storage 'runs' would vanish with the job's temporary folder"),
        ({"storage": "/home/ann/runs"}, "storage '/home/ann/runs' may be on one node alone"),
        ({"storage": "/mnt/shared/../home/runs"}, "may be on one node alone"),
        ({"storage": "file:///home/ann/runs"}, "may be on one node alone"),
        ({"storage": "memory://runs"}, "would be another one in every process"),
        ({"storage": "ftp://ann:secret@host/runs"}, "storage holds a password"),
        ({"storage": "nfs4://host/runs"}, "is of no kind that fsspec knows"),
        ({"tracking": "sqlite:///mlflow.db"}, "tracking 'sqlite:///mlflow.db' would vanish"),
        ({"tracking": "sqlite:////home/ann/mlflow.db"}, "would vanish"),
        ({"model": "/home/ann/model"}, "model folder '/home/ann/model' may be on one node alone"),
        ({"task": {"train": "nowhere.csv"}}, "task.train 'nowhere.csv' does not exist here"),
    ],
)
def test_what_would_vanish_or_be_out_of_reach_is_refused(changes, sentence, write):
    with pytest.raises(BadRequestError) as caught, packed(Request(write(**changes), shared=(SHARED,))):
        pass
    assert sentence in str(caught.value)


def test_a_store_on_shared_storage_may_be_a_file(write):
    with packed(Request(write(tracking="sqlite:////mnt/shared/mlflow.db"), shared=(SHARED,))) as sweep:
        assert sweep.metadata["adapad.storage"] == "/mnt/shared/runs"


def test_a_password_in_the_address_of_the_environment_is_refused_and_not_repeated(write, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:hunter2@mlflow.example")
    with pytest.raises(BadRequestError) as caught, packed(Request(write(), shared=(SHARED,))):
        pass
    assert "MLFLOW_TRACKING_PASSWORD" in str(caught.value) and "hunter2" not in str(caught.value)


def test_data_too_large_to_travel_are_refused(write, monkeypatch):
    monkeypatch.setattr(package, "LARGEST_UPLOAD", 1000)
    with pytest.raises(BadRequestError) as caught, packed(Request(write(), shared=(SHARED,))):
        pass
    assert "train.csv and its like below a folder that all nodes share" in str(caught.value)


@pytest.mark.parametrize(
    ("needed", "sentence"),
    [
        ({"python": [99, 0], "requirements": []}, "and the package needs 99.0 or newer"),
        (
            {"python": [3, 11], "requirements": ["no-such-thing>=1", "numpy>=999"]},
            "lacks no-such-thing>=1, numpy>=999 (not ",
        ),
    ],
)
def test_a_job_on_a_machine_that_cannot_run_it_says_why(needed, sentence, tmp_path):
    (tmp_path / "adapad-launch.json").write_text(json.dumps(needed | {"submitted_from": "3.11"}))
    done = subprocess.run([sys.executable, entrypoint.__file__, "x.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert sentence in done.stderr and done.stderr.startswith("adapad: the cluster")


def test_this_machine_can_run_it():
    assert entrypoint.complaint(json.loads(json.dumps(package._needed()))) == ""
