"""Intervals of means over seeds × items, planned numbers of seeds, Holm's correction, Pareto front and AURAC.

There are few seeds and many items, so the two parts of a mean's variance are estimated differently: the items' part by
a bootstrap over items, which works for any metric, and the seeds' part from the values per seed, with Student's t. The
latter is moderated by what the sweep's other points know (`seed_variance.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

from adapad_ray.report.seed_variance import SeedVariance

Array = NDArray[np.float64]
BLOCK = 4_000_000
"""Largest number of bootstrap weights in memory at one time."""
POWER = 0.8
"""Power of a plan: chance that its seeds detect a difference of the planned size (a project default)."""
ASSURANCE = 0.8
"""Confidence of the upper limit of the seeds' variance that a plan uses (a project default)."""
MOST_SEEDS = 1000
"""Largest number of seeds that a plan returns."""


def item_weights(items: int, draws: int, generator: np.random.Generator) -> Iterator[Array]:
    """Yields bootstrap weights of the items in blocks `[draws of the block, items]`; each row sums to 1."""
    block = max(1, BLOCK // items)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        chosen = generator.integers(items, size=(size, items)) + items * np.arange(size)[:, None]
        yield np.bincount(chosen.ravel(), minlength=size * items).reshape(size, items) / items


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and test items, with the two parts of its variance.

    The half width of its interval is the root of the sum of two squared half widths: t with `freedom` degrees of
    freedom for the seeds' part and t with items - 1 for the items' part. The interval is exact if there is only one
    part. In between it is slightly conservative, at every level that Holm's correction uses. The usual alternatives
    fail there because three seeds often agree by chance: a single t with Welch and Satterthwaite's degrees of freedom
    rejects a true null hypothesis in 2.1 % of cases at a level of 0.25 % (three seeds that cause 90 % of the variance;
    this interval: 0.1 %), and a bootstrap of three seeds has only ten outcomes and so no tails.
    """

    mean: float
    of_seeds: float
    """Variance of the mean that falls with more seeds: s² / S, s² the variance of a seed's value; 0 with one seed."""
    of_items: float
    """Variance of the mean that falls with more items only."""
    seeds: int
    items: int
    freedom: float
    """Degrees of freedom of `of_seeds`: S - 1, or more where other points contribute."""
    right_or_wrong: bool = False
    """Whether items are answered right or wrong (see `unseen`)."""

    def half_width(self, tail: float) -> float:
        """Half width of the interval with this probability in each tail."""
        of_items = _quantile(tail, max(self.items - 1, 1)) * math.sqrt(self.of_items)
        return math.hypot(
            _quantile(tail, max(self.freedom, 1)) * math.sqrt(self.of_seeds), max(of_items, self.unseen(tail))
        )

    def unseen(self, tail: float) -> float:
        """Least half width of the items' part: the share of items that may be wrong although none was.

        Resampling items without an error never shows one, so that a bootstrap would report certainty. The bound is
        Clopper and Pearson's (1934) for no error among n items, `1 - tail^(1/n)`: 11 points for 31 items. With more
        than about four errors, or items on which two models differ, the bootstrap's part is larger. 0 for metrics of
        numbers, whose bootstrap vanishes only with their residuals.
        """
        return 1 - tail ** (1 / self.items) if self.right_or_wrong else 0.0

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided interval. With one seed it is about that one trained model, not about the method."""
        half = self.half_width((1 - confidence) / 2)
        return self.mean - half, self.mean + half

    def lower_bound(self, confidence: float = 0.95) -> float:
        """One-sided lower bound at this confidence."""
        return self.mean - self.half_width(1 - confidence)

    @property
    def p_value(self) -> float:
        """Two-sided p-value of the null hypothesis that the mean is 0, at least 1e-12: where the interval touches 0."""
        low, high = math.log(5e-13), math.log(0.5)
        if self.half_width(math.exp(high)) >= abs(self.mean):
            return 1.0
        if self.half_width(math.exp(low)) <= abs(self.mean):
            return 1e-12
        root = optimize.brentq(lambda tail: self.half_width(math.exp(tail)) - abs(self.mean), low, high)
        return 2 * math.exp(root)

    def seeds_needed(self, effect: float, error_rate: float = 0.05) -> float | None:
        """Seeds that detect a mean of this size with a power of 80 %, in a test at `error_rate`.

        `inf` if no number of seeds suffices with these items, or more than `MOST_SEEDS` are needed. None with one
        seed, which carries no information about the variance. The plan uses the upper 80 % confidence limit of the
        seeds' variance, because few seeds often underestimate it.
        """
        if self.seeds < 2:
            return None
        variance = self.of_seeds * self.seeds * self.freedom / float(stats.chi2.ppf(1 - ASSURANCE, self.freedom))
        counts = np.arange(2, MOST_SEEDS + 1)
        of_seeds, of_items = variance / counts, self.of_items
        t, z = _quantile(error_rate / 2, counts - 1), _quantile(error_rate / 2, max(self.items - 1, 1))
        half_width = np.sqrt(t**2 * of_seeds + max(z**2 * of_items, self.unseen(error_rate / 2) ** 2))
        with_power = half_width + _quantile(1 - POWER, counts - 1) * np.sqrt(of_seeds + of_items)
        enough = np.flatnonzero(with_power <= abs(effect))
        return float(counts[enough[0]]) if len(enough) else math.inf

    def items_needed(self, effect: float, error_rate: float = 0.05) -> int:
        """Items below which no number of seeds detects a mean of this size with a power of 80 %."""
        both = _quantile(error_rate / 2, max(self.items - 1, 1)) + _quantile(1 - POWER, max(self.items - 1, 1))
        without_error = math.log(error_rate / 2) / math.log1p(-min(abs(effect), 0.99)) if self.right_or_wrong else 0
        return math.ceil(max(self.items * self.of_items * (float(both) / effect) ** 2, without_error))


def estimate(
    values: Array, draws: Array, items: int, prior: SeedVariance | None = None, *, right_or_wrong: bool = False
) -> Estimate:
    """Estimates the mean of a metric from its values `[seeds]` and its item-bootstrap draws `[draws, seeds]`.

    `prior` is what other points know about the variance over seeds.

    The items' part of the variance is the mean covariance of the draws of two seeds. The variance of one seed's draws
    would also contain the interaction of items and seeds, which s² of the values per seed already includes.
    """
    seeds = len(values)
    of_items = float(np.var(draws.mean(axis=1), ddof=1))
    of_seeds, freedom = 0.0, float(seeds - 1)
    if seeds > 1:
        variance = float(np.var(values, ddof=1))
        if prior is not None:
            variance, freedom = prior.moderate(variance, seeds - 1)
        of_seeds = variance / seeds
        each = float(np.var(draws, axis=0, ddof=1).mean())
        of_items = max(0.0, (seeds * of_items - each) / (seeds - 1))
    return Estimate(float(np.mean(values)), of_seeds, of_items, seeds, items, freedom, right_or_wrong)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values by Holm's step-down method: reject where the adjusted value is below the family's error rate."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for position, index in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, (len(p_values) - position) * p_values[index])
        adjusted[index] = min(running, 1.0)
    return adjusted


def pareto_front(parameters: ArrayLike, metric: ArrayLike) -> NDArray[np.bool_]:
    """True for points that no other point dominates: no more parameters, no lower metric, one of the two strictly."""
    p, m = np.asarray(parameters, dtype=float), np.asarray(metric, dtype=float)
    no_worse = (p[None, :] <= p[:, None]) & (m[None, :] >= m[:, None])
    better = (p[None, :] < p[:, None]) | (m[None, :] > m[:, None])
    dominated: NDArray[np.bool_] = np.any(no_worse & better, axis=1)
    return ~dominated


def aurac(parameters: ArrayLike, metric: ArrayLike, low: float, high: float) -> Array:
    """Area under the metric against log(parameters) from `low` to `high`, divided by the log-range.

    `parameters` is `[points]`, ascending; `metric` is `[..., points]`. The result `[...]` is the expected metric at a
    budget drawn log-uniformly from the range. Between points the curve is linear in log(parameters).
    """
    x = np.log(np.asarray(parameters, dtype=float))
    start, end = math.log(low), math.log(high)
    nodes = np.concatenate([[start], x[(x > start) & (x < end)], [end]])
    weights = np.stack([np.interp(nodes, x, unit) for unit in np.eye(len(x))])
    area: Array = np.trapezoid(np.asarray(metric) @ weights, nodes, axis=-1) / (end - start)
    return area


def _quantile(tail: float, freedom: ArrayLike) -> Any:
    """Upper quantile of Student's t. SciPy's distribution object is much slower."""
    return -special.stdtrit(freedom, tail)
