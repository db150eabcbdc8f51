"""Statistics against SciPy and closed forms."""

import numpy as np
import pytest
from scipy import stats

from adapad_ray.report import statistics as ours


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def test_item_bootstrap_agrees_with_scipy(generator):
    correct = generator.random(300) < 0.8
    weights = np.concatenate(list(ours.item_weights(300, 20_000, generator)))
    reference = stats.bootstrap((correct,), np.mean, method="percentile", n_resamples=20_000, rng=generator)
    assert weights.sum(axis=1) == pytest.approx(1)
    assert ours.interval(weights @ correct) == pytest.approx(tuple(reference.confidence_interval), abs=0.004)


def test_item_weights_do_not_depend_on_the_block(generator, monkeypatch):
    whole = np.concatenate(list(ours.item_weights(50, 40, np.random.default_rng(3))))
    monkeypatch.setattr(ours, "BLOCK", 500)
    assert np.array_equal(whole, np.concatenate(list(ours.item_weights(50, 40, np.random.default_rng(3)))))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seed_resampling_has_the_unbiased_variance_of_the_mean(seeds, generator):
    values = generator.standard_normal(seeds)
    means = ours.seed_weights(seeds, 200_000, generator) @ values
    assert means.var() == pytest.approx(values.var(ddof=1) / seeds, rel=0.02)


def test_difference_between_seeds_alone_is_the_paired_t_test(generator):
    a, b = generator.standard_normal(5), generator.standard_normal(5)
    weights = ours.seed_weights(5, 100_000, generator)
    difference = ours.paired_difference(a - b, np.tile(a - b, (100_000, 1)), weights, items=1000)
    reference = stats.ttest_rel(a, b)
    assert difference.p_value == pytest.approx(reference.pvalue, rel=0.05)
    assert difference.interval() == pytest.approx(tuple(reference.confidence_interval()), rel=0.05)


def test_difference_between_items_alone_is_the_paired_t_test(generator):
    a, b = generator.random(400) < 0.80, generator.random(400) < 0.74
    weights = np.concatenate(list(ours.item_weights(400, 20_000, generator)))
    draws = (weights @ (a.astype(float) - b))[:, None]
    difference = ours.paired_difference(np.array([a.mean() - b.mean()]), draws, np.ones((20_000, 1)), items=400)
    reference = stats.ttest_rel(a.astype(float), b.astype(float))
    assert difference.p_value == pytest.approx(reference.pvalue, rel=0.1)
    one_sided = stats.ttest_rel(a.astype(float), b.astype(float), alternative="greater").confidence_interval().low
    assert difference.lower_bound() == pytest.approx(one_sided, abs=0.002)


def test_models_that_agree_everywhere_differ_by_nothing():
    difference = ours.paired_difference(np.zeros(3), np.zeros((10, 3)), np.full((10, 3), 1 / 3), items=50)
    assert (difference.p_value, difference.interval()) == (1.0, (0.0, 0.0))


def test_the_difference_interval_covers_the_truth_with_few_seeds_and_items():
    """Two-way data with a known mean of 0: a nominal 95 % interval must not fall far below its level."""
    covered, runs = 0, 300
    for run in range(runs):
        generator = np.random.default_rng(run)
        items, seeds = 80, 3
        data = 0.1 * generator.standard_normal((1, seeds)) + generator.standard_normal((items, 1))
        data = data + 0.5 * generator.standard_normal((items, seeds))
        draws = np.concatenate(list(ours.item_weights(items, 400, generator))) @ data
        low, high = ours.paired_difference(
            data.mean(0), draws, ours.seed_weights(seeds, 400, generator), items
        ).interval()
        covered += low <= 0 <= high
    assert covered / runs >= 0.93


def test_holm_on_a_textbook_family():
    assert ours.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert ours.holm([]) == []


def test_pareto_front_by_hand():
    front = ours.pareto_front([0, 10, 10, 20, 30], [0.70, 0.75, 0.74, 0.75, 0.80])
    assert front.tolist() == [True, True, False, False, True]


def test_aurac_of_a_straight_line_in_the_logarithm():
    parameters = np.array([1e4, 3e4, 1e5])
    metric = 0.5 + 0.1 * np.log10(parameters)
    assert ours.aurac(parameters, metric, 1e4, 1e5) == pytest.approx(0.5 + 0.1 * 4.5)
    assert ours.aurac(parameters, np.stack([metric, metric + 1]), 2e4, 5e4) == pytest.approx(
        0.5 + 0.1 * np.log10(np.sqrt(2e4 * 5e4)) + np.array([0, 1])
    )


def test_seeds_needed_meets_its_own_promise_and_no_less():
    needed = ours.seeds_needed(0.01, 3, 0.01)
    upper = 0.01 * np.sqrt(2 / stats.chi2.ppf(0.2, 2))

    def half(n):
        return stats.t.ppf(0.975, n - 1) * upper / np.sqrt(n)

    assert half(needed) <= 0.01 < half(needed - 1)
    assert ours.seeds_needed(0.01, 1, 0.01) is None
