"""The trials of the tune stage."""

from adapad_ray.report.inputs import ReportInputs
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
