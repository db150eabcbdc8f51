"""Early stopping of tune trials, on an executor without Ray: what trains, what is counted, kills and relaunches."""

from __future__ import annotations

import optuna
import pytest
from synthetic import ONE_EACH, SyntheticExecutor

from adapad_ray.distributed import JobError
from adapad_ray.search.space import quasi_random_points
from adapad_ray.sweep.manifest import Manifest

TUNE = {"trials": 6, "budget": ONE_EACH, "space": {"learning_rate": {"log": [1e-3, 1e-1]}}, "early_stopping": True}
FIELDS = {"tune": TUNE, "reference": False, "seeds": [0], "training": {"max_length": 32, "epochs": 6}}
DIVERGED = JobError("DivergedError", "lane 1, step 3: the loss is nan")


def best_rate(identity) -> float:
    """A score that is best at the largest learning rate."""
    return identity.training["learning_rate"]


def trials(folder) -> dict[str, tuple[str, float | None, dict[int, float]]]:
    """The trials of the label's study, by learning rate: state, value and scores at rungs."""
    study = optuna.load_study(study_name="s/lora", storage=f"sqlite:///{folder / 'optuna.db'}")
    return {t.params["learning_rate"]: (t.state.name, t.value, t.intermediate_values) for t in study.trials}


def test_the_best_trials_train_to_their_end_and_the_others_are_pruned_counted_and_no_failures(launch, folder, tracker):
    executor = SyntheticExecutor(score=best_rate)
    outcome, recorder = launch(executor, **FIELDS)
    tuned = [identity for identity in executor.computed if identity.stage == "tune"]
    rates = sorted({best_rate(identity) for identity in executor.paused})
    assert len(executor.paused) == 6 + 3 and [*map(best_rate, tuned)] == sorted(rates[4:], reverse=True)
    curve = [identity for identity in executor.computed if identity.stage == "curve"]
    assert {best_rate(identity) for identity in curve} == {rates[-1]} and len(curve) == 2

    assert outcome.failed == [] and outcome.computed == 4 and tracker.failed == []
    ((_, expected, *_),) = recorder.arguments("computing_started")
    assert outcome.cells_in_words == f"4 cells computed, 0 reused, 0 failed, 4 stopped early: {expected} cells in all"
    assert outcome.stopped_in_words == "4 of 6 trials stopped early" == tracker.tags[0]
    assert {cell.id for cell, _ in recorder.arguments("trial_stopped")} == set(tracker.stopped)
    manifest = Manifest.load(folder)
    assert not manifest.labels.keys() & set(tracker.stopped)
    assert manifest.missing(list(recorder.arguments("sweep_ended")[0][0].results.values())) == 0
    (steps,) = {trial.steps for trial in manifest.stopped}
    first, second = (-(-n * steps // 16) for n in (3, 7))
    stopped = {trial.settings["learning_rate"]: trial.step for trial in manifest.stopped}
    assert stopped == {**dict.fromkeys(rates[:3], first), rates[3]: second}
    assert trials(folder) == {
        **{rate: ("PRUNED", rate, {first: rate}) for rate in rates[:3]},
        rates[3]: ("PRUNED", rates[3], dict.fromkeys((first, second), rates[3])),
        **{rate: ("COMPLETE", rate, dict.fromkeys((first, second), rate)) for rate in rates[4:]},
    }
    ((_, edges),) = recorder.arguments("winners_found")
    assert "the largest of those tried" in edges[0], "stopped trials were tried"

    again = SyntheticExecutor()
    outcome, recorder = launch(again, **FIELDS)
    assert recorder.hooks[0] == "nothing_to_compute" and again.computed == again.paused == []
    assert (len(outcome.stopped), outcome.trials) == (4, 6)
    assert Manifest.load(folder) == manifest


@pytest.mark.parametrize("kill", range(1, 13, 3))
def test_a_launch_that_is_killed_stops_the_same_trials_when_it_is_launched_again(launch, folder, kill):
    def dies(identity):
        if len(first.computed) + len(first.paused) == kill:
            raise KeyboardInterrupt

    first, second = SyntheticExecutor(score=best_rate, error=dies), SyntheticExecutor(score=best_rate)
    with pytest.raises(KeyboardInterrupt):
        launch(first, **FIELDS)
    outcome, _ = launch(second, **FIELDS)
    assert len(first.paused) + len(second.paused) == 6 + 3, "no trial pauses twice at a rung"
    assert len(first.computed) + len(second.computed) == 4
    assert outcome.failed == [] and outcome.stopped_in_words == "4 of 6 trials stopped early"
    assert sorted(state for state, _, _ in trials(folder).values()) == ["COMPLETE"] * 2 + ["PRUNED"] * 4


def test_without_it_every_trial_trains_to_its_end_and_the_identities_are_the_same(launch):
    stopping, full = SyntheticExecutor(score=best_rate), SyntheticExecutor(score=best_rate)
    launch(stopping, **FIELDS)
    outcome, _ = launch(full, **{**FIELDS, "tune": {**TUNE, "early_stopping": False}})
    assert outcome.stopped == [] and full.paused == [] and len(full.computed) == 4, "those that were stopped before"
    assert {i.model_dump_json() for i in full.computed} < {i.model_dump_json() for i in stopping.paused}


def test_if_all_trials_that_went_on_fail_a_stopped_one_takes_their_place(launch, folder):
    """The trial with the smallest rate fails before its first pause, the two with the largest after the second."""

    rates = sorted(point["learning_rate"] for point in quasi_random_points(TUNE["space"], 6, seed=0))

    def fails(identity):
        wild = {0: rates[:1], 2: rates[4:]}.get(executor.paused.count(identity), [])
        return DIVERGED if identity.stage == "tune" and best_rate(identity) in wild else None

    executor = SyntheticExecutor(score=best_rate, error=fails)
    outcome, _ = launch(executor, **FIELDS)
    assert [best_rate(i) for i in executor.computed if i.stage == "tune"] == [rates[3]]
    assert {best_rate(i) for i in executor.computed if i.stage == "curve"} == {rates[3]}
    assert len(outcome.failed) == 3 and len(outcome.stopped) == 2
    states = sorted(state for state, _, _ in trials(folder).values())
    assert states == ["COMPLETE"] + ["FAIL"] * 3 + ["PRUNED"] * 2


def test_cells_that_do_not_train_and_labels_that_follow_the_compute_of_others_are_tuned_too(launch):
    methods = {"adapad": {"initial_rank": 0}, "lora/matched": {"compute_as": "adapad"}, "para": {"parent_rank": 4}}
    executor = SyntheticExecutor(score=best_rate, passes=lambda identity: 3 if identity.method == "adapad" else 1)
    outcome, _ = launch(executor, **FIELDS, methods=methods)
    finished = [identity.label for identity in executor.computed if identity.stage == "tune"]
    assert (finished.count("adapad"), finished.count("lora/matched"), finished.count("para")) == (2, 2, 6)
    assert outcome.failed == [] and outcome.stopped_in_words == "8 of 18 trials stopped early"


def test_training_that_is_too_short_for_a_pause_trains_to_its_end(launch):
    executor = SyntheticExecutor(score=best_rate)
    short = {**FIELDS, "training": {"max_length": 32, "epochs": 0.01}}
    outcome, _ = launch(executor, **short)
    assert executor.paused == [] and outcome.stopped == []
    assert len([identity for identity in executor.computed if identity.stage == "tune"]) == 6
