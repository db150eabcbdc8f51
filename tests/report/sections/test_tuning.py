"""The trials of the tune stage."""

from adapad_ray.report.sections.tuning import tuned_trials
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
