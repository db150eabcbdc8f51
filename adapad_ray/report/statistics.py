"""Resampling over seeds × items, paired differences, Pareto front and area under the curve."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]
BLOCK = 4_000_000
"""Item weights held in memory at one time."""


def item_weights(items: int, draws: int, generator: np.random.Generator) -> Iterator[Array]:
    """Bootstrap weights of the items in blocks `[some draws, items]`; each row sums to 1."""
    block = max(1, BLOCK // items)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        chosen = generator.integers(items, size=(size, items)) + items * np.arange(size)[:, None]
        yield np.bincount(chosen.ravel(), minlength=size * items).reshape(size, items) / items


def seed_weights(seeds: int, draws: int, generator: np.random.Generator) -> Array:
    """Bootstrap weights of the seeds `[draws, seeds]`; each row sums to 1.

    S - 1 of S seeds are drawn, with replacement: the variance of the resampled mean is then the unbiased s²/S, where
    drawing S seeds would give (S - 1)/S of it, a third too little at S = 3 (McCarthy & Snowden, 1985).
    """
    drawn = max(1, seeds - 1)
    return generator.multinomial(drawn, np.full(seeds, 1 / seeds), size=draws) / drawn


def interval(draws: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile interval of bootstrap draws."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.asarray(draws), [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """A mean paired difference with its standard error and the degrees of freedom that stand behind it."""

    mean: float
    standard_error: float
    degrees_of_freedom: float

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided t interval."""
        half = stats.t.ppf((1 + confidence) / 2, self.degrees_of_freedom) * self.standard_error
        return float(self.mean - half), float(self.mean + half)

    def lower_bound(self, confidence: float = 0.95) -> float:
        """One-sided t bound: the difference is above it with this confidence."""
        return float(self.mean - stats.t.ppf(confidence, self.degrees_of_freedom) * self.standard_error)

    @property
    def p_value(self) -> float:
        """Two-sided p-value of no difference."""
        if self.standard_error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.mean) / self.standard_error, self.degrees_of_freedom))


def paired_difference(values: Array, draws: Array, weights: Array, items: int) -> Difference:
    """Difference of two models from its value per seed `[seeds]` and per draw and seed `[draws, seeds]`.

    The variance comes from the bootstrap over seeds (`weights` `[draws, seeds]`) × items. The share that the seeds
    explain has S - 1 degrees of freedom and the rest items - 1, combined by Welch-Satterthwaite: three seeds that
    disagree are treated as three observations, however many items each was tested on. With one seed the
    difference speaks of these two trained models only.
    """
    seeds = len(values)
    of_seeds = float(np.var(values, ddof=1)) / seeds if seeds > 1 else 0.0
    total = max(float(np.var((draws * weights).sum(axis=1), ddof=1)), of_seeds)
    of_items = total - of_seeds
    squares = of_items**2 / max(items - 1, 1) + (of_seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    freedom = total**2 / squares if squares > 0 else float(max(items - 1, 1))
    return Difference(float(np.mean(values)), math.sqrt(total), freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: reject where the adjusted value is below the family's error rate."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for position, index in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, (len(p_values) - position) * p_values[index])
        adjusted[index] = min(running, 1.0)
    return adjusted


def pareto_front(parameters: ArrayLike, metric: ArrayLike) -> NDArray[np.bool_]:
    """True where no other point has as few parameters and as good a metric, one of the two strictly better."""
    p, m = np.asarray(parameters, dtype=float), np.asarray(metric, dtype=float)
    no_worse = (p[None, :] <= p[:, None]) & (m[None, :] >= m[:, None])
    better = (p[None, :] < p[:, None]) | (m[None, :] > m[:, None])
    dominated: NDArray[np.bool_] = np.any(no_worse & better, axis=1)
    return ~dominated


def aurac(parameters: ArrayLike, metric: ArrayLike, low: float, high: float) -> Array:
    """Area under metric against log(parameters) from `low` to `high` parameters, divided by the log-range.

    `parameters` `[points]` ascending, `metric` `[..., points]`; the result `[...]` is the metric's mean over a budget
    drawn log-uniformly from the range. Between points the curve is a straight line in log(parameters).
    """
    x = np.log(np.asarray(parameters, dtype=float))
    start, end = math.log(low), math.log(high)
    nodes = np.concatenate([[start], x[(x > start) & (x < end)], [end]])
    weights = np.stack([np.interp(nodes, x, unit) for unit in np.eye(len(x))])
    area: Array = np.trapezoid(np.asarray(metric) @ weights, nodes, axis=-1) / (end - start)
    return area


def seeds_needed(standard_deviation: float, seeds: int, half_width: float) -> int | None:
    """Seeds whose mean has a 95 % t interval of ± `half_width`; None if the pilot has one seed.

    Planned with the upper 80 % confidence limit of the pilot's standard deviation (of paired differences, for a
    comparison), since a few seeds often understate it.
    """
    if seeds < 2:
        return None
    upper = standard_deviation * math.sqrt((seeds - 1) / float(stats.chi2.ppf(0.2, seeds - 1)))
    needed = max(2, math.ceil((1.96 * upper / half_width) ** 2))
    while stats.t.ppf(0.975, needed - 1) * upper / math.sqrt(needed) > half_width:
        needed += 1
    return needed
