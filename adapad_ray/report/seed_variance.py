"""What the points of a sweep know together about the variance over seeds.

Three seeds estimate a variance with two degrees of freedom, and Student's t then multiplies every standard deviation by
4.3. Points of one sweep mostly have similar variances, so they share what they know: the moderated t of Smyth (2004,
"Linear Models and Empirical Bayes Methods"; limma). The variances of the points are scaled draws from an inverse
chi-squared prior with d₀ degrees of freedom around s₀², both estimated from the points, and each point uses

    s̃² = (d₀ s₀² + d s²) / (d₀ + d)        with d₀ + d degrees of freedom.

Two choices are this project's, checked in `benchmarks/known_truth.py`: only half of the estimated d₀ is used, which is
never more than the points' own degrees of freedom together; and a point that is noisier than the prior allows (F test,
p < 0.1) keeps its own variance, because shrinking it would claim too much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

FEWEST = 4
"""Points from which a prior is estimated (a project default)."""
NOISY = 0.1
"""p-value below which a point counts as noisier than the prior."""


@dataclass(frozen=True)
class SeedVariance:
    """The prior of the variance over seeds."""

    variance: float
    """s₀²."""
    freedom: float
    """Degrees of freedom that it adds to those of a point."""

    def moderate(self, variance: float, freedom: int) -> tuple[float, float]:
        """The variance and the degrees of freedom that a point uses, from its own."""
        if stats.f.sf(variance / self.variance, freedom, self.freedom) < NOISY:
            return variance, float(freedom)
        total = self.freedom + freedom
        return (self.freedom * self.variance + freedom * variance) / total, total


def seed_variance(variances: Sequence[float], freedom: Sequence[int]) -> SeedVariance | None:
    """The prior of these points' variances over seeds, s² with `freedom` degrees each; None if they are too few.

    d₀ and s₀² are those of Smyth (2004), section 6.2: the mean and the variance of log s² less what sampling explains.
    """
    own = np.array([s for s, d in zip(variances, freedom, strict=True) if d > 0])
    d = np.array([d for d in freedom if d > 0], dtype=float)
    if len(own) < FEWEST or np.median(own) == 0:
        return None
    logs = np.log(np.maximum(own, 1e-5 * np.median(own)))  # metrics of few items may agree exactly
    logs = logs - special.digamma(d / 2) + np.log(d / 2)
    unexplained = float(np.var(logs, ddof=1) - special.polygamma(1, d / 2).mean())
    most = float(d.sum())
    freedom_0 = min(2 * _trigamma_inverse(unexplained), most) if unexplained > 0 else most
    variance = math.exp(logs.mean() + special.digamma(freedom_0 / 2) - math.log(freedom_0 / 2))
    return SeedVariance(variance, freedom_0 / 2)


def _trigamma_inverse(value: float) -> float:
    """Newton's method on 1 / trigamma, which is convex and nearly linear (Smyth 2004, appendix)."""
    y = 0.5 + 1 / value
    for _ in range(50):
        trigamma = float(special.polygamma(1, y))
        step = trigamma * (1 - trigamma / value) / float(special.polygamma(2, y))
        y += step
        if abs(step) < 1e-8 * y:
            break
    return y
