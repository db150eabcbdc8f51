"""`resources.workers` from the command line: what it does, and what is refused before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from sweep_helpers import adapad

from adapad_ray.report.records import load_results

pytestmark = [pytest.mark.xdist_group("more-clusters"), pytest.mark.usefixtures("shared_workers")]


@pytest.fixture
def spec_file(tmp_path: Path, tiny_model: Path, reviews: Path) -> Path:
    content = {
        "name": "wide",
        "model": str(tiny_model),
        "pooling": "mean",
        "task": {"train": str(reviews), "text": "review", "label": "stars"},
        "methods": {"lora": {}, "adapad": {"local_steps": 2}},
        "budgets": [1792],
        "seeds": [0],
        "reference": False,
        "training": {"epochs": 1, "max_length": 32, "max_train_examples": 64},
        "resources": {"cpus_per_worker": 0.5},
        "storage": str(tmp_path / "runs"),
        "tracking": f"sqlite:///{tmp_path}/mlflow.db",
    }
    path = tmp_path / "wide.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_two_workers_share_a_cell_of_either_kind(spec_file: Path, tmp_path: Path) -> None:
    """Lanes of AdaPaD are dealt to them, and a batch of LoRA is cut in two."""
    code, output = adapad("sweep", spec_file, "resources.workers=2")
    assert code == 0, output
    workers = {result.identity.label: result.cost.workers for result in load_results(tmp_path / "runs" / "wide")}
    assert workers == {"lora": 2, "adapad": 2}


def test_more_workers_than_there_can_ever_be_are_refused_with_both_sides_of_the_sum(
    spec_file: Path, tmp_path: Path
) -> None:
    code, output = adapad("sweep", spec_file, "resources.workers=64", "resources.cpus_per_worker=1")
    assert code == 2
    assert (
        "a group of 64 workers with 1 CPU and 0 GPUs each does not fit the cluster, which holds 2 such workers"
        in output
    )
    assert output.startswith("Data: ") and "\nadapad: a group of 64" in output and "Traceback" not in output
    assert not (tmp_path / "runs" / "wide" / "cells").exists()


@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_a_method_that_trains_in_one_worker_is_refused_with_two(spec_file: Path, tmp_path: Path, command: str) -> None:
    methods = "methods={lora: {}, increlora: {}}"
    code, output = adapad(command, spec_file, "resources.workers=2", methods)
    assert code == 2
    assert "resources.workers is 2, but increlora as configured trains in one worker" in output
    assert output.startswith("adapad: ") and output.count("\n") == 1
    assert not (tmp_path / "runs").exists()
