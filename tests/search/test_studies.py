"""Optuna's studies on disk: a search survives kills, and a tune study is a view of its cells."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from adapad_ray.search.settings import SearchStage
from adapad_ray.search.space import parse_space
from adapad_ray.search.studies import SearchStudy, TunedTrial, align_study, open_storage

SPACE = {"budget": {"int": [64, 1792]}, "learning_rate": {"log": [1e-3, 1e-1]}}


def run(study: SearchStudy, until: int | None = None) -> None:
    """Ends trials with a known objective: a larger budget is better, and a rate of 1e-2 is best."""
    ended = 0
    while ended != until and (trial := study.take()) is not None:
        rate, budget = trial.point["learning_rate"], trial.point["budget"]
        study.complete(trial.number, budget / 2000 - abs(rate - 1e-2), budget)
        ended += 1


def opened(folder: Path, trials: int = 14, **settings: object) -> SearchStudy:
    stage = SearchStage.model_validate({"trials": trials, "space": SPACE, **settings})
    return SearchStudy(open_storage(folder), "toy/adapad/1", parse_space(SPACE), stage)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_one_at_a_time_a_search_is_a_function_of_its_seed_whatever_is_killed(tmp_path, sampler):
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
    run(opened(tmp_path / "undisturbed", sampler=sampler))
    for ended in (3, 0, 8):
        study = opened(tmp_path / "killed", sampler=sampler)
        run(study, ended)
        study.take()  # and then it is killed
    study = opened(tmp_path / "killed", sampler=sampler)
    run(study)
    assert study.over
    assert study.trials == opened(tmp_path / "undisturbed", sampler=sampler).trials
    points = [json.dumps(trial.point) for trial in study.trials]
    assert sampler == "nsga2" or len(set(points)) == 14


def test_a_trial_that_was_killed_between_two_parameters_is_finished_first(tmp_path):
    study = opened(tmp_path)
    raw = optuna.load_study(study_name=study.name, storage=open_storage(tmp_path))
    raw.ask().suggest_int("budget", 64, 1792)
    (half,) = raw.trials
    assert study.trials == []
    trial = study.take()
    assert (trial.number, trial.point["budget"]) == (0, half.params["budget"])
    assert trial.point.keys() == SPACE.keys()


def test_a_longer_search_goes_on_and_a_shorter_one_ends_earlier(tmp_path):
    run(opened(tmp_path, trials=4))
    longer = opened(tmp_path, trials=6)
    assert longer.remaining == 2
    run(longer)
    first = opened(tmp_path, trials=4)
    assert first.over and first.trials == longer.trials[:4]


def test_a_failed_trial_counts_and_is_not_pruned(tmp_path):
    study = opened(tmp_path, trials=2)
    study.fail(study.take().number, "DivergedError: lane 1, step 3")
    run(study)
    assert [trial.state for trial in study.trials] == ["failed", "done"]
    assert study.over and study.take() is None
    raw = optuna.load_study(study_name=study.name, storage=open_storage(tmp_path)).trials
    assert [trial.state for trial in raw] == [TrialState.FAIL, TrialState.COMPLETE]
    assert raw[0].user_attrs == {"reason": "DivergedError: lane 1, step 3"}


def test_the_front_has_one_trial_a_budget_and_keeps_its_ends(tmp_path):
    study = opened(tmp_path, trials=7, rerun=3)
    values = [(0.5, 100), (0.6, 200), (0.7, 300), (0.8, 400), (0.9, 500), (0.4, 450), (0.9, 600)]
    for score, parameters in values:
        study.complete(study.take().number, score, parameters)
    assert [(trial.score, trial.parameters) for trial in study.front()] == [(0.5, 100), (0.7, 300), (0.9, 500)]


def test_a_tune_study_is_brought_in_line_with_its_cells(tmp_path):
    storage, space = open_storage(tmp_path), parse_space({"learning_rate": {"log": [1e-3, 1e-1]}})
    study = optuna.create_study(storage=storage, study_name="toy/lora", direction="maximize")
    study.ask(space)  # of a killed driver
    study.enqueue_trial({"learning_rate": 0.05})
    ended = [
        TunedTrial({"learning_rate": 0.01}, TrialState.COMPLETE, 0.7, {6: 0.5}),
        TunedTrial({"learning_rate": 0.02}, TrialState.FAIL),
        TunedTrial({"learning_rate": 0.03}, TrialState.PRUNED, 0.4, {6: 0.4}),
    ]
    align_study(storage, "toy/lora", space, ended)
    aligned = optuna.load_study(study_name="toy/lora", storage=storage)
    assert [(t.params, t.value, t.state.name, t.intermediate_values) for t in aligned.trials] == [
        ({"learning_rate": 0.01}, 0.7, "COMPLETE", {6: 0.5}),
        ({"learning_rate": 0.02}, None, "FAIL", {}),
        ({"learning_rate": 0.03}, 0.4, "PRUNED", {6: 0.4}),
    ]
    align_study(storage, "toy/lora", space, ended[::-1])
    again = optuna.load_study(study_name="toy/lora", storage=storage)
    assert again._study_id == aligned._study_id, "nothing is written again"


@pytest.mark.parametrize("wider", [{"choice": [1e-3, 1e-2, 1e-1]}, {"log": [1e-3, 1e-1]}], ids=["choice", "kind"])
def test_a_tune_study_takes_trials_of_a_space_that_was_changed(wider, tmp_path):
    storage, ended = open_storage(tmp_path), [TunedTrial({"learning_rate": 0.01}, TrialState.COMPLETE, 0.7)]
    before, after = ({"learning_rate": space} for space in ({"choice": [1e-3, 1e-2]}, wider))
    align_study(storage, "toy/lora", parse_space(before), ended)
    align_study(storage, "toy/lora", parse_space(after), ended)
    study = optuna.load_study(study_name="toy/lora", storage=storage)
    study.enqueue_trial({"learning_rate": 0.1})
    assert study.ask(parse_space(after)).params == {"learning_rate": 0.1}
    assert [trial.value for trial in study.trials] == [0.7, None]
