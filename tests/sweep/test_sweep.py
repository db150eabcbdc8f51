"""A whole sweep on a real Ray cluster, a real MLflow store and a tiny real model: run, run again, extend, export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import peft
import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient
from safetensors.numpy import load_file
from sweep_helpers import adapad

from adapad_ray.models import load_backbone
from adapad_ray.report.records import load_results
from adapad_ray.sweep.inputs import load_inputs
from adapad_ray.sweep.manifest import Manifest
from adapad_ray.sweep.spec_file import load_spec
from adapad_ray.tasks import encode, load_task
from adapad_ray.tasks.metrics import find_metric
from adapad_ray.training.cell import CellRequest, Workspace, run_cell
from adapad_ray.training.cell.evaluation import predict

pytestmark = [pytest.mark.xdist_group("more-clusters"), pytest.mark.usefixtures("shared_workers")]

RANK_1 = 2 * (4 * 64 + 2 * 96)
"""One component on each of the tiny model's 12 linear layers."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def spec_file(place: Path, tiny_model: Path, reviews: Path) -> Path:
    content = {
        "name": "tiny",
        "model": str(tiny_model),
        "pooling": "mean",
        "task": {"train": str(reviews), "text": "review", "label": "stars"},
        "methods": {
            "lora": {},
            "lora/random": {"allocation": "random"},
            "adapad": {"initial_rank": 0},
            "adapad/exact": {"local_steps": 2, "initial_rank": 1},
        },
        "budgets": [RANK_1 // 2, RANK_1 * 2],
        "seeds": [0, 1],
        "training": {"epochs": 2, "max_length": 32, "learning_rate": 5e-3},
        "tune": {"trials": 2, "budget": RANK_1 * 2, "space": {"learning_rate": {"log": [3e-3, 3e-2]}}},
        "storage": str(place / "runs"),
        "tracking": f"sqlite:///{place}/mlflow.db",
    }
    path = place / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def first(spec_file: Path, place: Path) -> tuple[Path, str]:
    """The first launch: its folder and what it printed."""
    code, output = adapad("sweep", spec_file)
    assert code == 0, output
    return place / "runs" / "tiny", output


def cell_runs(place: Path) -> list:
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def test_the_first_launch_leaves_curve_report_recommendation_runs_and_adapters(first, place):
    folder, output = first
    for name in ("spec.yaml", "curve.csv", "curve.svg", "curve.png", "report.html", "recommendation.json"):
        assert (folder / name).stat().st_size > 0
    recommendation = json.loads((folder / "recommendation.json").read_text())
    assert recommendation["sentence"].split()[0] in output
    runs = cell_runs(place)
    cells = [run for run in runs if "adapad.cell" in run.data.tags]
    assert len(cells) == 10 + 2 * (1 + 1 + 2 + 2 + 1)
    assert len({run.data.tags["adapad.cell"] for run in cells}) == len(cells)
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_a_pair_that_cannot_exist_is_a_gap_and_no_failure(first):
    gaps = Manifest.load(first[0]).gaps
    assert {(label, budget) for label, budget, _ in gaps} == {("lora", RANK_1 // 2), ("adapad/exact", RANK_1 // 2)}


def test_every_point_stays_within_its_budget_and_prefixes_are_marked(first):
    table = pd.read_csv(first[0] / "curve.csv")
    finals = table[(table["kind"] == "final") & (table["label"] != "head_only")]
    assert (finals["parameters_high"] <= finals["budget"]).all()
    prefixes = table[table["kind"] == "prefix"]
    assert set(prefixes["label"]) <= {"adapad", "adapad/exact"}
    assert len(prefixes)
    assert set(table["label"]) == {"head_only", "lora", "lora/random", "adapad", "adapad/exact"}


def test_recorded_metrics_are_those_of_the_stored_predictions(first):
    for result in load_results(first[0]):
        stored = load_file(first[0] / "cells" / result.id / "predictions.safetensors")
        for point in result.points:
            logits = stored[f"validation/{point.key}"]
            expected = find_metric(result.metric).scores(logits, stored["validation/labels"])
            assert point.validation == pytest.approx(expected)
        assert result.identity.stage == "curve" or not any(name.startswith("test/") for name in stored)


def test_peft_gives_the_logits_of_every_deployed_model(first, tiny_model, reviews):
    """PEFT's own loader on a fresh backbone, every final model and prefix of the sweep."""
    task = {"train": str(reviews), "text": "review", "label": "stars"}
    checked = 0
    for result in load_results(first[0]):
        for point in result.points:
            if point.adapter is None:
                continue
            backbone = load_backbone(str(tiny_model), 3, pooling="mean", seed=99)
            data = encode(load_task(task), backbone.tokenizer, max_length=32)
            model = peft.PeftModel.from_pretrained(
                backbone.model, first[0] / "cells" / result.id / point.adapter
            ).eval()
            logits = predict(model, data.splits["test"], batch_size=64, pad_token_id=0)
            stored = load_file(first[0] / "cells" / result.id / "predictions.safetensors")
            np.testing.assert_allclose(logits, stored[f"test/{point.key}"], atol=1e-5)
            checked += 1
    assert checked > 14


def test_the_second_launch_computes_nothing_and_says_so(first, spec_file, place):
    before = len(cell_runs(place))
    code, output = adapad("sweep", spec_file)
    assert code == 0
    assert "nothing to compute" in output
    assert "0 cells computed, 24 reused, 0 failed" in output
    assert len(cell_runs(place)) == before


def test_extending_the_file_runs_the_difference(first, spec_file):
    code, output = adapad("sweep", spec_file, "seeds=[0,1,2]")
    assert code == 0
    assert "7 cells computed, 24 reused, 0 failed" in output


def test_a_folder_of_another_task_is_refused_before_ray_starts(first, spec_file, tmp_path, reviews):
    other = tmp_path / "other.csv"
    other.write_text(reviews.read_text())
    code, output = adapad("sweep", spec_file, f"task.train={other}")
    assert code == 2
    assert f"belongs to a sweep with task.train '{reviews}', not '{other}'" in output


def test_the_studies_of_the_tune_stage_are_kept_with_exactly_their_trials(first):
    storage = optuna.storages.RDBStorage(f"sqlite:///{first[0] / 'optuna.db'}")
    studies = {s.study_name: s.n_trials for s in optuna.get_all_study_summaries(storage)}
    assert studies == dict.fromkeys(
        ["tiny/head_only", "tiny/lora", "tiny/lora/random", "tiny/adapad", "tiny/adapad/exact"], 2
    )


def test_export_copies_a_deployable_adapter(first, tmp_path):
    code, output = adapad("export", first[0], "--method", "adapad", "--budget", RANK_1 * 2, "--to", tmp_path / "out")
    assert code == 0, output
    config = peft.PeftConfig.from_pretrained(tmp_path / "out")
    assert config.r == max(config.rank_pattern.values())
    code, output = adapad("export", first[0], "--method", "adapad", "--budget", 7, "--to", tmp_path / "none")
    assert code == 2
    assert f"{RANK_1 * 2:,}" in output


def test_report_rebuilds_what_was_deleted(first):
    page = first[0] / "report.html"
    page.unlink()
    assert adapad("report", first[0])[0] == 0
    assert page.stat().st_size > 0


def test_plan_trains_nothing_and_counts_exactly(spec_file, place):
    code, output = adapad("plan", spec_file, "--json")
    assert code == 0
    plan = json.loads(output)
    rows = {(row["label"], row["budget"]): row for row in plan["rows"]}
    assert rows["lora", RANK_1 * 2]["parameters"] == RANK_1 * 2
    assert rows["lora", RANK_1 * 2]["ranks"] == [2]
    assert plan["cells"] == {"tune": 10, "curve": 14}


def test_a_diverging_method_fails_alone_and_the_exit_code_says_so(spec_file, tmp_path):
    code, output = adapad(
        "sweep",
        spec_file,
        "tune=null",
        "seeds=[0]",
        f"budgets=[{RANK_1}]",
        "methods={lora: {}, lora/wild: {training: {learning_rate: 1e30}}}",
        "--out",
        tmp_path / "wild",
    )
    assert code == 1
    assert "DivergedError" in output
    assert "2 cells computed, 0 reused, 1 failed" in output
    assert torch.isfinite(torch.tensor(pd.read_csv(tmp_path / "wild" / "curve.csv")["test_mean"])).all()


def test_a_compute_matched_label_trains_for_as_many_passes_as_the_one_it_follows(spec_file, tmp_path):
    code, output = adapad(
        "sweep",
        spec_file,
        "tune.trials=1",
        "seeds=[0]",
        f"budgets=[{RANK_1 * 2}]",
        "methods={lora/matched: {compute_as: adapad/exact}, adapad/exact: {local_steps: 2, initial_rank: 1}}",
        "--out",
        tmp_path / "matched",
    )
    assert code == 0, output
    results = {r.identity.label: r for r in load_results(tmp_path / "matched") if r.identity.stage == "curve"}
    exact, matched = results["adapad/exact"].cost, results["lora/matched"].cost
    assert exact.lane_passes > 2 * exact.steps
    assert matched.lane_passes == pytest.approx(exact.lane_passes, rel=0.02)


def test_early_stopping_prunes_trials_and_the_winner_is_bitwise_the_one_that_never_paused(spec_file, tmp_path):
    out = tmp_path / "stopped"
    tune = ["tune.trials=5", "tune.early_stopping=true", "training.epochs=4"]
    methods = "methods={adapad: {initial_rank: 0, local_steps: 2}}"
    code, output = adapad("sweep", spec_file, methods, *tune, "seeds=[0]", "reference=false", "--out", out)
    assert code == 0, output
    assert output.count("stopped early at step") == 3 and ", 3 stopped early: " in output
    assert "4 cells computed, 0 reused, 0 failed" in output
    storage = optuna.storages.RDBStorage(f"sqlite:///{out / 'optuna.db'}")
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    assert sorted(trial.state.name for trial in trials) == ["COMPLETE"] * 2 + ["PRUNED"] * 3
    first, second = sorted({step for trial in trials for step in trial.intermediate_values})
    by_first = sorted(trials, key=lambda trial: trial.intermediate_values[first])
    paused_twice = [trial for trial in trials if second in trial.intermediate_values]
    assert sorted(trial.number for trial in paused_twice) == sorted(trial.number for trial in by_first[2:])
    behind, *completed = sorted(paused_twice, key=lambda trial: trial.intermediate_values[second])
    assert behind.state.name == "PRUNED" and {trial.state.name for trial in completed} == {"COMPLETE"}

    tuned = [r for r in load_results(out) if r.identity.stage == "tune"]
    assert {r.tuning_score for r in tuned} == {trial.value for trial in completed}
    result = max(tuned, key=lambda r: r.tuning_score)
    assert result.cost.steps > second > first
    loaded = load_inputs(load_spec(out / "spec.yaml"))
    workspace = Workspace(loaded.recipe.load(), loaded.inputs.data)
    threads = torch.get_num_threads()
    torch.set_num_threads(result.identity.threads)
    whole = run_cell(CellRequest(result.id, result.identity, tmp_path / "whole", "tiny"), workspace)
    torch.set_num_threads(threads)
    assert (whole.train_loss, whole.points, whole.growth) == (result.train_loss, result.points, result.growth)

    assert "3 of 5 trials stopped early, because others" in (out / "report.html").read_text()
    code, output = adapad("sweep", spec_file, methods, *tune, "seeds=[0]", "reference=false", "--out", out)
    assert "nothing to compute" in output and ", 3 stopped early: " in output


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task.text=reviw"], "reviw"),
        (["target_modules=[qery]"], "did you mean 'query'"),
        (["budgets=[7]", "tune=null"], "no method of this sweep can reach budget 7"),
        (["tune.budget=7"], "tune.budget does not suit"),
        (["methods={lora: {rank: 33}}", "tune=null"], "rank 33 is above the dimension 32"),
        (["methods={adapad: {r_max: 40, initial_rank: 1}}", "tune=null"], "r_max 40 is above the dimension 32"),
        (["methods={lroa: {}}"], "did you mean lora"),
        (["training.batch_sise=3"], "did you mean batch_size"),
        (["model=/nowhere/at-all"], "/nowhere/at-all"),
        (["task.train=/nowhere/a.csv"], "/nowhere/a.csv"),
        (["training.max_length=1000"], "max_length is 1,000"),
        (["storage=nfs4://host/runs"], "nfs4://host/runs"),
        (["storage=sftp://ann:secret@host/runs"], "storage holds a password"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_bad_request_is_one_sentence_before_anything_starts(spec_file, tmp_path, overrides, words):
    out = [] if any("storage" in o for o in overrides) else ["--out", tmp_path / "out"]
    code, output = adapad("sweep", spec_file, *overrides, *out)
    assert code == 2
    assert words in output
    assert output.startswith("adapad: ")
    assert output.count("\n") == 1
    assert not (tmp_path / "out").exists()
