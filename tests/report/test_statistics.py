"""Statistics against SciPy and closed forms."""

import numpy as np
import pytest
from scipy import stats

from adapad_ray.report import statistics


@pytest.fixture
def generator():
    return np.random.default_rng(0)


def draws_of(data, draws, generator):
    """Item-bootstrap draws `[draws, seeds]` of per-item values `[items, seeds]`."""
    return np.concatenate([weights @ data for weights in statistics.item_weights(len(data), draws, generator)])


def test_item_bootstrap_agrees_with_scipy(generator):
    correct = generator.random(300) < 0.8
    draws = draws_of(correct.astype(float), 20_000, generator)
    reference = stats.bootstrap((correct,), np.mean, method="percentile", n_resamples=20_000, rng=generator)
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx(tuple(reference.confidence_interval), abs=0.004)


def test_item_weights_do_not_depend_on_the_block_size(monkeypatch):
    whole = np.concatenate(list(statistics.item_weights(50, 40, np.random.default_rng(3))))
    assert whole.sum(axis=1) == pytest.approx(1)
    monkeypatch.setattr(statistics, "BLOCK", 500)
    assert np.array_equal(whole, np.concatenate(list(statistics.item_weights(50, 40, np.random.default_rng(3)))))


def test_with_scatter_of_seeds_only_it_is_the_paired_t_test(generator):
    a, b = generator.standard_normal(5), generator.standard_normal(5)
    difference = statistics.estimate(a - b, np.tile(a - b, (10, 1)), items=1000)
    reference = stats.ttest_rel(a, b)
    assert difference.p_value == pytest.approx(reference.pvalue)
    assert difference.interval() == pytest.approx(tuple(reference.confidence_interval()))


def test_with_scatter_of_items_only_it_is_the_paired_t_test(generator):
    a, b = generator.random(400) < 0.80, generator.random(400) < 0.74
    data = (a.astype(float) - b)[:, None]
    difference = statistics.estimate(data.mean(axis=0), draws_of(data, 20_000, generator), items=400)
    reference = stats.ttest_rel(a.astype(float), b.astype(float))
    assert difference.p_value == pytest.approx(reference.pvalue, rel=0.1)
    one_sided = stats.ttest_rel(a.astype(float), b.astype(float), alternative="greater").confidence_interval().low
    assert difference.lower_bound() == pytest.approx(one_sided, abs=0.002)


def test_the_parts_of_the_variance_are_those_of_a_two_way_analysis(generator):
    """Random effects of items (1), seeds (0.1) and their interaction (0.5): the mean squares give the same parts."""
    items, seeds = 500, 4
    data = generator.standard_normal((items, 1)) + 0.1 * generator.standard_normal((1, seeds))
    data = data + 0.5 * generator.standard_normal((items, seeds))
    found = statistics.estimate(data.mean(axis=0), draws_of(data, 20_000, generator), items)
    rest = data - data.mean(axis=1, keepdims=True) - data.mean(axis=0) + data.mean()
    interaction = (rest**2).sum() / ((items - 1) * (seeds - 1))
    of_items = (np.var(data.mean(axis=1), ddof=1) - interaction / seeds) / items
    assert found.of_items == pytest.approx(of_items, rel=0.05)
    assert found.of_seeds == pytest.approx(np.var(data.mean(axis=0), ddof=1) / seeds)


def test_identical_models_have_no_difference():
    difference = statistics.estimate(np.zeros(3), np.zeros((10, 3)), items=50)
    assert (difference.p_value, difference.interval()) == (1.0, (0.0, 0.0))


def test_the_p_value_is_where_the_interval_touches_zero():
    difference = statistics.Estimate(0.02, of_seeds=0.005**2, of_items=0.004**2, seeds=4, items=300, freedom=3)
    low, _ = difference.interval(1 - difference.p_value)
    assert low == pytest.approx(0, abs=1e-9) and 0 < difference.p_value < 0.05


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_covers_the_truth_with_few_seeds(seeds):
    """Two-way data with a known mean of 0 and comparable parts: a nominal 95 % interval must hold its level."""
    covered, runs, items = 0, 400, 80
    for run in range(runs):
        generator = np.random.default_rng([run, seeds])
        data = 0.2 * generator.standard_normal((1, seeds)) + generator.standard_normal((items, 1))
        data = data + 0.5 * generator.standard_normal((items, seeds))
        low, high = statistics.estimate(data.mean(axis=0), draws_of(data, 300, generator), items).interval()
        covered += low <= 0 <= high
    assert covered / runs >= 0.94


def test_holm_on_a_textbook_family():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]) == []


def test_pareto_front_by_hand():
    front = statistics.pareto_front([0, 10, 10, 20, 30], [0.70, 0.75, 0.74, 0.75, 0.80])
    assert front.tolist() == [True, True, False, False, True]


def test_aurac_of_a_straight_line_in_the_logarithm():
    parameters = np.array([1e4, 3e4, 1e5])
    metric = 0.5 + 0.1 * np.log10(parameters)
    assert statistics.aurac(parameters, metric, 1e4, 1e5) == pytest.approx(0.5 + 0.1 * 4.5)
    assert statistics.aurac(parameters, np.stack([metric, metric + 1]), 2e4, 5e4) == pytest.approx(
        0.5 + 0.1 * np.log10(np.sqrt(2e4 * 5e4)) + np.array([0, 1])
    )


def pilot(of_items=0.0, seeds=5):
    """A pilot whose values per seed scatter by 2 points."""
    return statistics.Estimate(
        0.004, of_seeds=0.02**2 / seeds, of_items=of_items, seeds=seeds, items=800, freedom=seeds - 1
    )


def test_planned_seeds_have_the_planned_power():
    """The paired t-test's exact power, at the scatter that the plan assumes."""
    planned = pilot()
    assumed = 0.02 * np.sqrt(4 / stats.chi2.ppf(0.2, 4))

    def power(n):
        freedom, centre = n - 1, 0.01 * np.sqrt(n) / assumed
        return stats.nct.sf(stats.t.ppf(0.975, freedom), freedom, centre)

    needed = planned.seeds_needed(0.01)
    assert power(needed) == pytest.approx(0.8, abs=0.01)
    assert planned.seeds_needed(0.01, error_rate=0.05 / 12) > needed > planned.seeds_needed(0.02)


def test_more_seeds_do_not_replace_items():
    floor = (0.01 / (1.96 + 0.84)) ** 2
    assert pilot(0.5 * floor).seeds_needed(0.01) < np.inf == pilot(1.05 * floor).seeds_needed(0.01)
    assert pilot(1.05 * floor).items_needed(0.01) == pytest.approx(1.05 * 800, rel=0.01)


def test_one_seed_gives_no_plan():
    assert pilot(seeds=1).seeds_needed(0.01) is None
