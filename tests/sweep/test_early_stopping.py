"""Early stopping of tune trials, on an executor without Ray: what trains, what is counted, kills and relaunches."""

from __future__ import annotations

import optuna
import pytest
from synthetic import ONE_EACH, SyntheticExecutor

from adapad_ray.distributed import JobError
from adapad_ray.search.space import quasi_random_points
from adapad_ray.sweep.manifest import Manifest

TUNE = {"trials": 4, "budget": ONE_EACH, "space": {"learning_rate": {"log": [1e-3, 1e-1]}}, "early_stopping": True}
FIELDS = {"tune": TUNE, "reference": False, "seeds": [0], "training": {"max_length": 32, "epochs": 6}}
DIVERGED = JobError("DivergedError", "lane 1, step 3: the loss is nan")


def best_rate(identity) -> float:
    """A score that is best at the largest learning rate."""
    return identity.training["learning_rate"]


def trials(folder) -> dict[str, tuple[str, float | None, dict[int, float]]]:
    """The trials of the label's study, by learning rate: state, value and scores at rungs."""
    study = optuna.load_study(study_name="s/lora", storage=f"sqlite:///{folder / 'optuna.db'}")
    return {t.params["learning_rate"]: (t.state.name, t.value, t.intermediate_values) for t in study.trials}


def test_the_best_trial_trains_to_its_end_and_the_others_are_pruned_counted_and_no_failures(launch, folder, tracker):
    executor = SyntheticExecutor(score=best_rate)
    outcome, recorder = launch(executor, **FIELDS)
    tuned = [identity for identity in executor.computed if identity.stage == "tune"]
    rates = sorted(best_rate(identity) for identity in executor.paused)
    assert len(rates) == 4 and [best_rate(identity) for identity in tuned] == rates[-1:]
    curve = [identity for identity in executor.computed if identity.stage == "curve"]
    assert {best_rate(identity) for identity in curve} == {rates[-1]} and len(curve) == 2

    assert outcome.failed == [] and outcome.computed == 3 and tracker.failed == []
    assert outcome.stopped_in_words == "3 of 4 trials stopped early" == tracker.tags[0]
    assert {cell.id for cell, _ in recorder.arguments("trial_stopped")} == set(tracker.stopped)
    manifest = Manifest.load(folder)
    assert sorted(trial.settings["learning_rate"] for trial in manifest.stopped) == rates[:-1]
    assert not manifest.labels.keys() & set(tracker.stopped)
    assert manifest.missing(list(recorder.arguments("sweep_ended")[0][0].results.values())) == 0
    (step,) = {trial.step for trial in manifest.stopped}
    (steps,) = {trial.steps for trial in manifest.stopped}
    assert step == -(-3 * steps // 8)
    assert trials(folder) == {
        **{rate: ("PRUNED", rate, {step: rate}) for rate in rates[:-1]},
        rates[-1]: ("COMPLETE", rates[-1], {step: rates[-1]}),
    }
    ((_, edges),) = recorder.arguments("winners_found")
    assert "the largest of those tried" in edges[0], "stopped trials were tried"

    again = SyntheticExecutor()
    outcome, recorder = launch(again, **FIELDS)
    assert recorder.hooks[0] == "nothing_to_compute" and again.computed == again.paused == []
    assert (len(outcome.stopped), outcome.trials) == (3, 4)
    assert Manifest.load(folder) == manifest


@pytest.mark.parametrize("kill", range(1, 7))
def test_a_launch_that_is_killed_stops_the_same_trials_when_it_is_launched_again(launch, folder, kill):
    def dies(identity):
        if len(first.computed) + len(first.paused) == kill:
            raise KeyboardInterrupt

    first, second = SyntheticExecutor(score=best_rate, error=dies), SyntheticExecutor(score=best_rate)
    with pytest.raises(KeyboardInterrupt):
        launch(first, **FIELDS)
    outcome, _ = launch(second, **FIELDS)
    assert len(first.paused) + len(second.paused) == 4, "no trial pauses twice"
    assert len(first.computed) + len(second.computed) == 3
    assert outcome.failed == [] and outcome.stopped_in_words == "3 of 4 trials stopped early"
    assert sorted(state for state, _, _ in trials(folder).values()) == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]


def test_without_it_every_trial_trains_to_its_end_and_the_identities_are_the_same(launch):
    stopping, full = SyntheticExecutor(score=best_rate), SyntheticExecutor(score=best_rate)
    launch(stopping, **FIELDS)
    outcome, _ = launch(full, **{**FIELDS, "tune": {**TUNE, "early_stopping": False}})
    assert outcome.stopped == [] and full.paused == [] and len(full.computed) == 3, "those that were stopped before"
    assert {i.model_dump_json() for i in full.computed} < {i.model_dump_json() for i in stopping.paused}


def test_a_trial_that_fails_before_or_after_the_pause_leaves_the_study_a_winner(launch, folder):
    """The trial with the largest rate fails after it has won, that with the smallest before the pause."""

    rates = sorted(point["learning_rate"] for point in quasi_random_points(TUNE["space"], 4, seed=0))

    def fails(identity):
        paused = identity in executor.paused
        return DIVERGED if best_rate(identity) == (rates[-1] if paused else rates[0]) else None

    executor = SyntheticExecutor(score=best_rate, error=fails)
    outcome, _ = launch(executor, **FIELDS)
    assert [best_rate(i) for i in executor.computed if i.stage == "tune"] == [rates[-2]]
    assert {best_rate(i) for i in executor.computed if i.stage == "curve"} == {rates[-2]}
    assert len(outcome.failed) == 2 and outcome.stopped_in_words == "1 of 2 trials stopped early"
    assert sorted(state for state, _, _ in trials(folder).values()) == ["COMPLETE", "FAIL", "FAIL", "PRUNED"]


def test_cells_that_do_not_train_and_labels_that_follow_the_compute_of_others_are_tuned_too(launch):
    methods = {"adapad": {"initial_rank": 0}, "lora/matched": {"compute_as": "adapad"}, "para": {"parent_rank": 4}}
    executor = SyntheticExecutor(score=best_rate, passes=lambda identity: 3 if identity.method == "adapad" else 1)
    outcome, _ = launch(executor, **FIELDS, methods=methods)
    finished = [identity.label for identity in executor.computed if identity.stage == "tune"]
    assert (finished.count("adapad"), finished.count("lora/matched"), finished.count("para")) == (1, 1, 4)
    assert outcome.failed == [] and outcome.stopped_in_words == "6 of 12 trials stopped early"


def test_training_that_is_too_short_for_a_pause_trains_to_its_end(launch):
    executor = SyntheticExecutor(score=best_rate)
    short = {**FIELDS, "training": {"max_length": 32, "epochs": 0.01}}
    outcome, _ = launch(executor, **short)
    assert executor.paused == [] and outcome.stopped == []
    assert len([identity for identity in executor.computed if identity.stage == "tune"]) == 4
