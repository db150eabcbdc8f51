"""`mode: search`: Ray Tune on a real cluster, a driver that is killed, and the report."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pandas as pd
import pytest
import yaml
from mlflow.tracking import MlflowClient
from optuna.trial import TrialState
from sweep_helpers import ONE_GROUP, adapad, launch

from adapad_ray.report.records import load_results

pytestmark = [pytest.mark.xdist_group("more-clusters"), pytest.mark.usefixtures("shared_workers")]

RANK_1 = 2 * (4 * 64 + 2 * 96)
"""One component on each of the tiny model's 12 linear layers."""
TRIALS = 10


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def spec_file(place: Path, tiny_model: Path, reviews: Path) -> Path:
    """Budgets from below the smallest adapter on, and a learning rate that no training survives."""
    content = {
        "name": "searched",
        "model": str(tiny_model),
        "pooling": "mean",
        "task": {"train": str(reviews), "text": "review", "label": "stars"},
        "methods": {"adapad": {"initial_rank": 0, "local_steps": 2}},
        "budgets": [RANK_1 // 2, RANK_1 * 2],
        "seeds": [0, 1],
        "training": {"epochs": 1, "max_length": 32, "learning_rate": 5e-3},
        "mode": "search",
        "search": {
            "trials": TRIALS,
            "concurrency": 2,
            "rerun": 2,
            "space": {
                "budget": {"choice": [8, "1 ranks", 448, RANK_1, 3584]},
                "growth_threshold": {"uniform": [0.5, 2]},
                "r_max": {"int": [1, 4]},
                "learning_rate": {"choice": [3e-3, 1e-2, 1e30]},
            },
        },
        "storage": str(place / "runs"),
        "tracking": f"sqlite:///{place}/mlflow.db",
    }
    path = place / "searched.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def study_in(folder: Path) -> optuna.Study:
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'optuna.db'}")
    (summary,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=summary.study_name, storage=storage)


def cell_runs(place: Path) -> list:
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "searched"]
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


@pytest.fixture(scope="module")
def finished(spec_file: Path, place: Path) -> Iterator[tuple[Path, str]]:
    """A search whose driver is killed by SIGKILL when some trials have ended, and then launched again."""
    folder = place / "runs" / "searched"
    first = launch(spec_file, place, ONE_GROUP)
    deadline = time.monotonic() + 300
    while len(list(folder.glob("cells/*/result.json"))) < 3:
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()[0]
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    left = [trial.state for trial in study_in(folder).trials]
    assert TrialState.RUNNING in left or len(left) < TRIALS, "the search was over before the kill"
    code, output = adapad("sweep", spec_file)
    assert code == 0, output
    yield folder, output


def test_a_killed_search_ends_with_exactly_the_asked_trials_and_none_open(finished):
    trials = study_in(finished[0]).trials
    assert len(trials) == TRIALS
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.FAIL}


def test_nothing_is_computed_or_logged_twice(finished, place):
    """One record and one run a cell; trials that the sampler repeats share a cell."""
    folder, _ = finished
    searched = [r for r in load_results(folder) if r.identity.stage == "search"]
    done = [trial for trial in study_in(folder).trials if trial.state == TrialState.COMPLETE]
    assert len(searched) == len({json.dumps(trial.params, sort_keys=True) for trial in done})
    assert not any(result.final.test for result in searched)
    runs = cell_runs(place)
    cells = [(run.data.tags["adapad.cell"], run.info.status) for run in runs if "adapad.cell" in run.data.tags]
    assert len(dict(cells)) == len(cells)
    finished_cells = {cell for cell, status in cells if status == "FINISHED"}
    assert finished_cells == {result.id for result in load_results(folder)}
    statuses = {run.info.status for run in runs}
    assert statuses <= {"FINISHED", "FAILED", "KILLED"}, "the others are trials that diverged or that the kill ended"


def test_the_study_holds_the_values_of_the_cells(finished):
    results = {r.id: r for r in load_results(finished[0]) if r.identity.stage == "search"}
    recorded = {(result.score, result.final.parameters) for result in results.values()}
    told = {tuple(t.values) for t in study_in(finished[0]).trials if t.state == TrialState.COMPLETE}
    assert told == recorded


def test_a_configuration_that_diverges_or_cannot_exist_has_failed_and_is_not_pruned(finished):
    for trial in study_in(finished[0]).trials:
        wild = trial.params["learning_rate"] == 1e30
        impossible = trial.params["budget"] == 8
        assert (trial.state == TrialState.FAIL) == (wild or impossible)
        if trial.state == TrialState.FAIL:
            assert trial.user_attrs["reason"].startswith("BudgetTooSmallError" if impossible else "DivergedError")


def test_the_front_is_trained_again_with_every_seed_and_compared_with_the_default(finished):
    folder, output = finished
    table = pd.read_csv(folder / "curve.csv")
    finals = table[(table["kind"] == "final") & table["budget"].notna()]
    assert set(finals["label"]) == {"adapad", "adapad/front"}
    assert set(finals["n_seeds"]) == {2}
    trials = pd.read_csv(folder / "trials.csv")
    assert len(trials) == TRIALS
    again = trials[trials["rerun"]]
    assert 1 <= len(again) <= 2 and again["front"].all()
    assert set(again["budget"]) == set(finals[finals["label"] == "adapad/front"]["budget"])
    verdict = re.compile(r"the front of adapad (dominates|does not dominate)")
    assert verdict.search(output)
    page = (folder / "report.html").read_text()
    assert verdict.search(page) and "DivergedError" in page


def test_the_next_launch_computes_nothing(finished, spec_file):
    before = len(load_results(finished[0]))
    code, output = adapad("sweep", spec_file)
    assert code == 0
    assert f"0 cells computed, {before} reused, 0 failed" in output
    assert len(study_in(finished[0]).trials) == TRIALS


def test_the_plan_counts_trials_and_what_follows(spec_file):
    code, output = adapad("plan", spec_file, "--json")
    assert code == 0, output
    assert json.loads(output)["cells"] == {"tune": 0, "curve": 6, "search": TRIALS, "front": 4}
    assert f"{TRIALS} trials to search" in adapad("plan", spec_file)[1]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["mode=curve"], "mode is curve"),
        (["search=null"], "search is missing"),
        (["search.space={learning_rate: {log: [1e-3, 1e-2]}}"], "budget is missing"),
        (["search.space.growth_treshold={uniform: [1, 2]}"], "did you mean growth_threshold"),
        (["search.space.max_length={int: [8, 16]}"], "would change the data"),
        (["search.space.budget={int: [1, 8]}"], "search.space.budget does not suit adapad"),
        (["search.space.budget={logs: [1k, 8k]}"], "did you mean log"),
        (["search.methods=[lora]"], "search.methods has 'lora'"),
        (["methods={adapad: {}, adapad/front: {}}"], "rename it"),
        (["methods={para: {}}", "search.methods=[para]", "search.space.r_max=null"], "search.space"),
        (["tune={trials: 1, budget: 3584, space: {learning_rate: {log: [1e-3, 1e-2]}}}"], "remove tune"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_search_that_is_wrong_is_refused_in_one_sentence(spec_file, tmp_path, overrides, words):
    code, output = adapad("sweep", spec_file, *overrides, "--out", tmp_path / "out")
    assert code == 2
    assert words in output
    assert output.startswith("adapad: ") and output.count("\n") == 1
    assert not (tmp_path / "out").exists()
