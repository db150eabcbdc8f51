"""The trials of the tune stage."""

from adapad_ray.report.inputs import ReportInputs, StoppedTrial
from adapad_ray.report.sections.tuning import Tuning, tuned_trials
from adapad_ray.report.sweep_results import SweepResults
from tests.report.factory import SweepFactory


def test_trials_list_the_settings_that_vary_best_first_and_mark_those_in_use(tmp_path):
    factory = SweepFactory(tmp_path, items=1000)
    results = [factory.cell("lora", 41_472, 1, 0.85, training={"learning_rate": 2e-3})]
    for rate, accuracy in ((5e-3, 0.7), (2e-3, 0.85)):
        results.append(factory.cell("lora", 41_472, 0, accuracy, stage="tune", training={"learning_rate": rate}))
    trials = tuned_trials(results)
    assert [(trial.settings, trial.used) for trial in trials] == [
        ({"learning_rate": "0.002"}, True),
        ({"learning_rate": "0.005"}, False),
    ]
    assert trials[0].validation > trials[1].validation


def test_of_equal_trials_the_edge_is_that_of_the_one_in_use(tmp_path):
    factory = SweepFactory(tmp_path, items=1000)
    factory.cell("lora", 41_472, 1, 0.85, training={"learning_rate": 1e-3, "weight_decay": 0.2})
    for decay in (0.0, 0.1, 0.2):
        factory.cell("lora", 41_472, 0, 0.8, stage="tune", training={"learning_rate": 1e-3, "weight_decay": decay})
    tuning = Tuning.compute(SweepResults(tmp_path, ReportInputs("t")))
    assert tuning.edges == [
        "lora at 41,472: the best weight_decay, 0.2, is the largest of those tried; higher ones may be better"
    ]
    assert [trial.used for trial in tuning.trials] == [True, False, False]


def test_trials_that_were_stopped_early_are_listed_counted_and_count_as_tried(tmp_path):
    """The only finished trial has the settings that the curve used, although no other finished one differs from it."""
    factory = SweepFactory(tmp_path, items=1000)
    factory.cell("lora", 41_472, 1, 0.85, training={"learning_rate": 4e-3})
    finished = factory.cell("lora", 41_472, 0, 0.85, stage="tune", training={"learning_rate": 4e-3})
    steps = finished.cost.steps
    stopped = [
        StoppedTrial("lora", 41_472, 0, {"learning_rate": 1e-3}, steps // 2, steps, -0.61, 0.61, 3.0),
        StoppedTrial("lora", 41_472, 0, {"learning_rate": 2e-3}, steps // 2, steps, 0.5, None, 3.0),
    ]
    tuning = Tuning.compute(SweepResults(tmp_path, ReportInputs("t", stopped=stopped)))
    assert [(trial.settings, trial.used) for trial in tuning.trials] == [({"learning_rate": "0.004"}, True)]
    table, _, note, edge = (str(block.__html__()) for block in tuning.words())
    assert f"0.6100 at step {steps // 2:,} of {steps:,}" in table and f"0.500 at step {steps // 2:,}" in table
    assert (
        "2 of 3 trials stopped early, because others had a better validation score after as many steps (on a sample of "
        "the split, with averaged weights). In all, 67% of" in note
    )
    assert "the best learning_rate, 0.004, is the largest of those tried" in edge
    assert stopped[0].sentence == f"stopped early at step {steps // 2:,} of {steps:,}: validation loss 0.6100"
    assert stopped[1].sentence.endswith("validation score 0.5000")
