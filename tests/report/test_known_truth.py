"""The report claims only what is true of synthetic sweeps: a small version of `benchmarks/known_truth.py`."""

import numpy as np
import pytest

from adapad_ray.report.differences import conclusions, label_differences
from benchmarks.known_truth import BUDGETS, HIGHER, PLATEAU, TRUTHS, Experiment, Truth, claims, planned


@pytest.mark.parametrize("truth", TRUTHS, ids=lambda truth: truth.name)
@pytest.mark.parametrize(("items", "seeds"), [(400, 3), (600, 6)])
def test_nothing_is_claimed_that_is_not_true(truth, items, seeds):
    found = claims(truth, items, seeds, repetitions=100, draws=300)
    assert found["clean"] >= 0.92 and found["wrong"] <= 0.01
    assert found["promise kept"] >= 0.92
    assert min(found["points"], found["areas"], found["differences"]) >= 0.93


def test_the_planned_number_of_seeds_finds_one_point():
    truth = Truth("1 point", {"lora": PLATEAU[2:], "adapad": HIGHER[2:]}, BUDGETS[2:], of_method=0.005)
    found = planned(truth, items=1000, pilot=5, repetitions=40, draws=300)
    assert found["told"] >= 0.5 and found["found"] >= 0.75 and found["wrong"] == 0


def test_the_expected_accuracy_of_a_synthetic_sweep_is_exact():
    experiment = Experiment(TRUTHS[2], 4000, 1, np.random.default_rng(0))
    experiment.extend(30)
    for key, scores in experiment.curves(200).test.items():
        expected = TRUTHS[2].at(key.label, key.budget)
        assert scores.estimate.mean == pytest.approx(expected, abs=4 * scores.estimate.half_width(0.16))


def test_words_and_numbers_agree():
    experiment = Experiment(TRUTHS[2], 1000, 1, np.random.default_rng(1))
    experiment.extend(40)
    found = label_differences(experiment.curves(300))
    assert any(difference.winner for difference in found)
    for difference in found:
        assert (difference.winner is not None) == (" is better than " in difference.sentence)
        assert difference.winner is None or difference.sentence.startswith(difference.winner)
    assert any(sentence.startswith("The curves of adapad and lora cross") for sentence in conclusions(found))
