"""A sweep whose cells share passes, on a real cluster: workers take several cells and answer for each."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest
import yaml
from sweep_helpers import adapad, lasting

pytestmark = [pytest.mark.xdist_group("more-clusters"), pytest.mark.usefixtures("shared_workers")]

RANK_1 = 2 * (4 * 64 + 2 * 96)
"""One component on each of the tiny model's 12 linear layers."""


def test_a_worker_trains_several_cells_and_one_that_diverges_fails_alone(
    tmp_path: Path, tiny_model: Path, reviews: Path
) -> None:
    spec, folder, uri = tmp_path / "packs.yaml", tmp_path / "sweep", f"sqlite:///{tmp_path}/mlflow.db"
    content = {
        "name": "packs",
        "model": str(tiny_model),
        "pooling": "mean",
        "task": {"train": str(reviews), "text": "review", "label": "stars"},
        "methods": {
            "lora": {},
            "lora/wild": {"allocation": "random", "training": {"learning_rate": 1e30}},
            "adapad": {"initial_rank": 2, "r_max": 2},
            "dora": {},
        },
        "budgets": [2 * RANK_1],
        "seeds": [0, 1],
        "training": {"epochs": 4, "max_length": 32, "learning_rate": 5e-3},
        "resources": {"slots_per_pass": 8},
        "tracking": uri,
    }
    spec.write_text(yaml.safe_dump(content))
    code, plan = adapad("plan", spec)
    assert code == 0
    assert "train up to 8 at a time in a worker, in at least 1 pack." in " ".join(plan.split())
    code, output = adapad("sweep", spec, "--out", folder)
    assert code == 1 and "8 cells computed, 0 reused, 2 failed" in output, output
    records = [json.loads(path.read_text()) for path in (folder / "cells").glob("*/result.json")]
    packed = {r["identity"]["label"]: r["identity"]["packed"] for r in records}
    assert packed == {"lora": True, "adapad": True, "head_only": True, "dora": False}
    assert max(r["cost"]["side_by_side"] for r in records) > 2
    assert "Trained in packs: adapad (" in (folder / "report.html").read_text()
    runs = mlflow.MlflowClient(uri).search_runs(["1"], "attributes.status = 'FINISHED'")
    logged = [run.data.tags["adapad.cell"] for run in runs if "adapad.cell" in run.data.tags]
    assert sorted(logged) == sorted(lasting(folder))
