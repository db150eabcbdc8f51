"""The moderated variance over seeds: against closed forms, and its coverage where points differ."""

import numpy as np
import pytest
from scipy import special, stats

from adapad_ray.report.seed_variance import SeedVariance, _trigamma_inverse, seed_variance


def test_the_inverse_of_trigamma_is_one():
    for value in (1e-3, 0.2, 1.0, 30.0):
        assert special.polygamma(1, _trigamma_inverse(value)) == pytest.approx(value, rel=1e-6)


def test_the_prior_is_recovered_from_many_points():
    """s² of points whose variances are drawn from the prior: half the true d₀ is used, by choice."""
    generator = np.random.default_rng(0)
    d0, s0, d = 8.0, 0.5, 4
    true = s0 * d0 / generator.chisquare(d0, 20_000)
    own = true * generator.chisquare(d, 20_000) / d
    prior = seed_variance(own, [d] * len(own))
    assert prior.variance == pytest.approx(s0, rel=0.03)
    assert prior.freedom == pytest.approx(d0 / 2, rel=0.1)


def test_equal_variances_add_at_most_half_of_all_degrees_of_freedom():
    prior = seed_variance([1.0, 1.01, 0.99, 1.0], [2, 2, 2, 2])
    assert prior.freedom == 4.0


def test_a_point_lies_between_its_own_variance_and_the_prior():
    prior = SeedVariance(1.0, 6.0)
    assert prior.moderate(0.2, 2) == (pytest.approx((6 * 1.0 + 2 * 0.2) / 8), 8.0)


def test_a_point_that_is_noisier_than_the_rest_keeps_its_own_variance():
    prior = SeedVariance(1.0, 6.0)
    limit = stats.f.isf(0.1, 2, 6)
    assert prior.moderate(limit * 1.01, 2) == (limit * 1.01, 2.0)
    assert prior.moderate(limit * 0.99, 2)[1] == 8.0


@pytest.mark.parametrize("variances", [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 1.0]], ids=["three points", "no variance"])
def test_without_information_there_is_no_prior(variances):
    assert seed_variance(variances, [2] * len(variances)) is None


def test_points_with_one_seed_say_nothing():
    assert seed_variance([1.0, 2.0, 1.5, 0.0], [2, 2, 2, 0]) is None


@pytest.mark.parametrize(
    "scatter",
    [[1.0] * 12, [1.0] * 4 + [2.0] * 4 + [1.0] * 4, [1.0] * 11 + [5.0]],
    ids=["equal", "one method twice as noisy", "one point five times as noisy"],
)
def test_intervals_of_three_seeds_cover_and_are_narrower(scatter):
    generator, repetitions = np.random.default_rng(1), 400
    covered, width, plain = 0, 0.0, 0.0
    for _ in range(repetitions):
        values = generator.standard_normal((len(scatter), 3)) * np.array(scatter)[:, None]
        own = values.var(axis=1, ddof=1)
        prior = seed_variance(own, [2] * len(own))
        for mean, variance in zip(values.mean(axis=1), own, strict=True):
            s2, freedom = prior.moderate(variance, 2)
            half = stats.t.ppf(0.975, freedom) * np.sqrt(s2 / 3)
            covered += abs(mean) <= half
            width, plain = width + half, plain + stats.t.ppf(0.975, 2) * np.sqrt(variance / 3)
    assert covered / repetitions / len(scatter) >= 0.94
    assert width / plain < 0.8
