"""Kill the driver at random, launch again: the sweep ends as if nothing had happened. Too long for CI: `make soak`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient

KILLS = 4


@pytest.fixture
def spec_file(tmp_path: Path, tiny_model: Path, reviews: Path) -> Path:
    content = {
        "name": "killed",
        "model": str(tiny_model),
        "pooling": "mean",
        "task": {"train": str(reviews), "text": "review", "label": "stars"},
        "methods": {"lora": {}, "adapad": {"initial_rank": 0, "local_steps": 2}},
        "budgets": [1792],
        "seeds": [0, 1, 2],
        "training": {"epochs": 12, "max_length": 32},
        "tune": {"trials": 2, "budget": 1792, "space": {"learning_rate": {"log": [1e-3, 1e-2]}}},
    }
    path = tmp_path / "killed.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def launch(spec: Path, place: Path) -> subprocess.Popen[str]:
    """`adapad sweep` as a person starts it, in a process group of its own."""
    place.mkdir(exist_ok=True)
    command = [sys.executable, "-c", "from adapad_ray.cli import app; app()", "sweep", str(spec)]
    return subprocess.Popen(
        command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def lasting(place: Path) -> dict[str, object]:
    """What the results of a sweep say apart from time and memory, by cell."""
    found = {}
    for path in (place / "runs" / "killed" / "cells").glob("*/result.json"):
        result = json.loads(path.read_text())
        for name in ("start_seconds", "train_seconds", "evaluation_seconds", "peak_memory_bytes"):
            result["cost"].pop(name)
        found[path.parent.name] = result
    return found


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_driver_killed_at_random_loses_nothing_and_doubles_nothing(spec_file: Path, tmp_path: Path) -> None:
    undisturbed = launch(spec_file, tmp_path / "undisturbed")
    output, _ = undisturbed.communicate(timeout=600)
    assert undisturbed.returncode == 0, output
    draw, place = random.Random(0), tmp_path / "killed"
    for _ in range(KILLS):
        process = launch(spec_file, place)
        time.sleep(draw.uniform(8, 35))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    last = launch(spec_file, place)
    output, _ = last.communicate(timeout=600)
    assert last.returncode == 0, output
    assert lasting(place) == lasting(tmp_path / "undisturbed")
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "killed"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    cells = [run.data.tags["adapad.cell"] for run in runs if "adapad.cell" in run.data.tags]
    assert sorted(cells) == sorted(lasting(place))
    assert {run.info.status for run in runs} == {"FINISHED"}
