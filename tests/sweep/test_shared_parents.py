"""A real sweep of post-hoc cuts on a Ray cluster: parents are trained once, whatever is cut from them later."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import peft
import pytest
import yaml
from safetensors.numpy import load_file
from sweep_helpers import adapad

from adapad_ray.models import load_backbone
from adapad_ray.report.records import load_results
from adapad_ray.sweep.manifest import Manifest
from adapad_ray.tasks import encode, load_task
from adapad_ray.training.cell.evaluation import predict

pytestmark = [pytest.mark.xdist_group("more-clusters"), pytest.mark.usefixtures("shared_workers")]

RANK_1 = 896
"""One component on each of the tiny model's 12 linear layers."""


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory, tiny_model, reviews) -> Path:
    place = tmp_path_factory.mktemp("shared")
    content = {
        "name": "cuts",
        "model": str(tiny_model),
        "pooling": "mean",
        "task": {"train": str(reviews), "text": "review", "label": "stars"},
        "methods": {
            "para": {"parent_rank": 4},
            "para/uniform": {"parent_rank": 4, "cut": "uniform"},
            "lora": {},
        },
        "budgets": [RANK_1, 2 * RANK_1],
        "seeds": [0, 1],
        "training": {"epochs": 1, "max_length": 32},
        "tune": {"trials": 2, "budget": RANK_1, "space": {"learning_rate": {"log": [3e-3, 3e-2]}}},
        "storage": str(place / "runs"),
        "tracking": f"sqlite:///{place}/mlflow.db",
    }
    path = place / "cuts.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def folder(spec_file: Path) -> Path:
    code, output = adapad("sweep", spec_file)
    assert code == 0, output
    return spec_file.parent / "runs" / "cuts"


def by_stage(folder: Path, stage: str) -> list:
    return [r for r in load_results(folder, Manifest.load(folder).labels) if r.identity.stage == stage]


def test_one_parent_per_seed_and_learning_rate_serves_all_budgets_and_cuts(folder):
    parents = {r.id: r for r in by_stage(folder, "parent")}
    cut = [r for r in by_stage(folder, "curve") if r.identity.method == "para"]
    assert len(cut) == 2 * 2 * 2
    assert 3 <= len(parents) <= 4, "two of the tune stage at seed 0; at seed 1 as many as there are winners"
    for cell in cut:
        parent = parents[cell.identity.parent]
        assert parent.identity.seed == cell.identity.seed
        assert parent.identity.training == cell.identity.training
        assert cell.final.parameters <= cell.identity.budget < parent.final.parameters


def test_parents_stand_on_no_curve_and_their_training_is_counted_once(folder):
    table = pd.read_csv(folder / "curve.csv")
    assert set(table["label"]) == {"head_only", "lora", "para", "para/uniform"}
    assert table["parameters"].max() <= 2 * RANK_1
    page = (folder / "report.html").read_text()
    assert '<td class="text">parent</td>' in page
    assert all(r.final.test == {} for r in by_stage(folder, "parent"))


def test_peft_gives_the_logits_of_every_cut(folder, tiny_model, reviews):
    task = {"train": str(reviews), "text": "review", "label": "stars"}
    for result in (r for r in by_stage(folder, "curve") if r.identity.method == "para"):
        backbone = load_backbone(str(tiny_model), 3, pooling="mean", seed=99)
        data = encode(load_task(task), backbone.tokenizer, max_length=32)
        place = folder / "cells" / result.id
        model = peft.PeftModel.from_pretrained(backbone.model, place / result.final.adapter).eval()
        logits = predict(model, data.splits["test"], batch_size=64, pad_token_id=0)
        stored = load_file(place / "predictions.safetensors")
        np.testing.assert_allclose(logits, stored["test/final"], atol=1e-5)


def test_another_budget_is_cut_without_any_training_and_a_relaunch_computes_nothing(folder, spec_file):
    before = {r.id for r in by_stage(folder, "parent")}
    budgets = f"budgets=[{RANK_1},{2 * RANK_1},{3 * RANK_1}]"
    methods = "methods={para: {parent_rank: 4}, para/uniform: {parent_rank: 4, cut: uniform}}"
    code, output = adapad("sweep", spec_file, budgets, methods)
    assert code == 0, output
    assert "4 cells computed" in output
    assert {r.id for r in by_stage(folder, "parent")} == before
    code, output = adapad("sweep", spec_file, budgets, methods)
    assert code == 0 and "nothing to compute" in output


def test_the_plan_counts_parents_and_trains_nothing(spec_file):
    code, output = adapad("plan", spec_file, "--json")
    assert code == 0, output
    assert json.loads(output)["parents"] == {"trained": 2 + 4, "cells": 8 + 4}


def test_a_parent_that_fails_is_named_and_ends_what_hangs_on_it_alone(spec_file, tmp_path):
    code, output = adapad(
        "sweep",
        spec_file,
        "tune=null",
        "seeds=[0]",
        "methods={lora: {}, para: {parent_rank: 4, training: {learning_rate: 1e30}}}",
        "--out",
        tmp_path / "wild",
    )
    assert code == 1
    assert "3 cells computed, 0 reused, 1 failed" in output
    assert "the cells that would be cut from it are missing" in " ".join(output.split())
