"""A sweep whose results lie in a store of objects, and nowhere else."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import fsspec
import optuna
import pytest
import yaml
from peft import PeftModel
from sweep_helpers import ONE_GROUP, adapad, assert_logged_once, lasting, launch

from adapad_ray.models import load_backbone

pytestmark = [pytest.mark.xdist_group("more-clusters"), pytest.mark.usefixtures("shared_workers")]

RANK_1 = 2 * (4 * 64 + 2 * 96)
"""One component on each of the tiny model's 12 linear layers."""


@pytest.fixture
def spec_file(tmp_path: Path, tiny_model: Path, reviews: Path, bucket: str) -> Path:
    content = {
        "name": "remote",
        "model": str(tiny_model),
        "pooling": "mean",
        "task": {"train": str(reviews), "text": "review", "label": "stars"},
        "methods": {"lora": {}, "adapad": {"local_steps": 2}, "para": {}},
        "budgets": [RANK_1],
        "seeds": [0],
        "reference": False,
        "training": {"epochs": 4, "max_length": 32, "learning_rate": 5e-3},
        "checkpoint": {"rounds": 8},
        "storage": f"{bucket}/runs",
        "tracking": f"sqlite:///{tmp_path}/mlflow.db",
    }
    path = tmp_path / "remote.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def fetched(url: str, to: Path) -> Path:
    """What lies below a URL, brought here with fsspec alone."""
    files, root = fsspec.url_to_fs(url)
    files.invalidate_cache()
    for path in files.find(root):
        target = to / path.removeprefix(f"{root}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        files.get_file(path, str(target))
    return to


@pytest.mark.soak
def test_a_sweep_in_a_store_is_the_sweep_in_a_folder(spec_file: Path, tmp_path: Path, bucket: str) -> None:
    """Killed once while cells have checkpoints there, and finished from nothing but what the store has."""
    url, place = f"{bucket}/runs/remote", tmp_path / "place"
    files, root = fsspec.url_to_fs(url, use_listings_cache=False)
    first = launch(spec_file, place, ONE_GROUP)
    deadline = time.monotonic() + 300
    while not any(path.endswith("checkpoint.safetensors") for path in files.find(root)):
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    code, output = adapad("sweep", spec_file)
    assert code == 2 and f"{url} is in use by process {first.pid} on " in output and output.count("\n") == 1
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()

    # In a process of its own again: a cluster that this one already has does not know where the server is.
    second = launch(spec_file, place, ONE_GROUP, "--out", url)
    output, _ = second.communicate(timeout=300)
    assert second.returncode == 0, output
    assert f"{url}/report.html" in output
    code, _ = adapad("sweep", spec_file, "--out", tmp_path / "folder", f"tracking=sqlite:///{tmp_path}/other.db")
    assert code == 0
    remote = fetched(url, tmp_path / "remote")
    assert lasting(remote) == lasting(tmp_path / "folder")
    names = {str(path.relative_to(remote)) for path in remote.rglob("*") if path.is_file()}
    assert not [name for name in names if "checkpoint" in name or Path(name).name.startswith(".")]
    expected = {str(p.relative_to(tmp_path / "folder")) for p in (tmp_path / "folder").rglob("*") if p.is_file()}
    assert names == expected - {".lock", ".launch"}
    assert_logged_once(f"sqlite:///{tmp_path}/mlflow.db", "remote", set(lasting(remote)))
    assert not list(place.glob("runs")), "nothing is written beside the store"

    code, output = adapad("sweep", spec_file)
    assert code == 0 and "nothing to compute" in output

    code, output = adapad("report", url)
    assert code == 0 and f"{url}/report.html" in output
    exported = tmp_path / "exported"
    code, output = adapad("export", url, "--method", "lora", "--budget", RANK_1, "--to", exported)
    assert code == 0, output
    backbone = load_backbone(str(yaml.safe_load(spec_file.read_text())["model"]), num_labels=3, pooling="mean")
    assert PeftModel.from_pretrained(backbone.model, exported).peft_config["default"].r == 1


def test_a_search_keeps_its_studies_in_the_store(spec_file: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    search = {"trials": 4, "rerun": 1, "space": {"budget": {"choice": [RANK_1, 2 * RANK_1]}}}
    content = yaml.safe_load(spec_file.read_text()) | {"mode": "search", "search": search, "name": "searched"}
    content |= {"methods": {"lora": {}}, "storage": f"file://{store}", "training": {"epochs": 1, "max_length": 32}}
    spec_file.write_text(yaml.safe_dump(content))
    code, output = adapad("sweep", spec_file)
    assert code == 0, output
    database = f"sqlite:///{store}/searched/optuna.db"
    (name,) = optuna.get_all_study_names(database)
    trials = optuna.load_study(study_name=name, storage=database).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    code, output = adapad("sweep", spec_file)
    assert code == 0 and "nothing to compute" in output
