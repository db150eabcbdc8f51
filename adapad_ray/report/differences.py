"""Which method is better at an equal budget, in numbers and in words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from adapad_ray.report.curves import Curves, PointKey
from adapad_ray.report.statistics import aurac, holm, interval

ERROR_RATE = 0.05


@dataclass(frozen=True)
class LabelDifference:
    """`first` minus `second` on the test split at one budget, paired by seed and item."""

    first: str
    second: str
    budget: int
    seeds: tuple[int, ...]
    parameters: tuple[float, float]
    """Mean deployed parameters of the two."""
    difference: float
    low: float
    high: float
    p_value: float
    p_adjusted: float = 1.0
    """After Holm's correction over the family."""

    @property
    def distinguishable(self) -> bool:
        """Whether the family-wise test at 5 % tells the two apart."""
        return self.p_adjusted < ERROR_RATE

    @property
    def sentence(self) -> str:
        """For humans, in points (hundredths of the metric)."""
        count = f"{len(self.seeds)} seed{'s' if len(self.seeds) != 1 else ''}"
        numbers = (
            f"difference {100 * self.difference:+.1f} points, 95 % interval {100 * self.low:.1f} to "
            f"{100 * self.high:.1f}, p {_p(self.p_value)}, adjusted {_p(self.p_adjusted)}"
        )
        if any(round(count) != self.budget for count in self.parameters):
            numbers += f"; deployed {self.parameters[0]:,.0f} and {self.parameters[1]:,.0f}"
        if not self.distinguishable:
            return f"{self.first} and {self.second} are not distinguishable at {self.budget:,} with {count} ({numbers})"
        better, worse = (self.first, self.second) if self.difference > 0 else (self.second, self.first)
        return (
            f"{better} is better than {worse} at {self.budget:,} with {count} ({self.first} − {self.second}: {numbers})"
        )


def label_differences(curves: Curves) -> list[LabelDifference]:
    """Every pair of labels at every budget that both reached, Holm-corrected as one family."""
    finals = [key for key in curves.points if key.kind == "final" and key.budget is not None]
    found = [difference for a, b in combinations(finals, 2) if (difference := _difference(curves, a, b)) is not None]
    found.sort(key=lambda difference: difference.budget)
    adjusted = holm([difference.p_value for difference in found])
    return [replace(difference, p_adjusted=p) for difference, p in zip(found, adjusted, strict=True)]


@dataclass(frozen=True)
class Area:
    """Area under a label's test curve over log(parameters), normalised by the range (AURAC)."""

    label: str
    value: float
    low: float
    high: float
    range: tuple[float, float]
    """Deployed parameters from which to which it was taken."""


def areas(curves: Curves) -> list[Area]:
    """AURAC of every label with two budgets, over the range that all of them cover; over its own if there is none."""
    sizes: dict[str, dict[PointKey, float]] = {}
    for key, group in curves.points.items():
        parameters = sum(point.parameters for _, point in group) / len(group)
        if key.kind == "final" and key.budget is not None and parameters > 0:
            sizes.setdefault(key.label, {})[key] = parameters
    sizes = {label: dict(sorted(of.items(), key=lambda e: e[1])) for label, of in sizes.items() if len(of) > 1}
    if not sizes:
        return []
    low = max(min(of.values()) for of in sizes.values())
    high = min(max(of.values()) for of in sizes.values())
    found = []
    for label, of in sizes.items():
        span = (low, high) if low < high else (min(of.values()), max(of.values()))
        if span[0] == span[1]:
            continue
        covered = list(of.values())
        value = aurac(covered, [curves.test[key].values.mean() for key in of], *span)
        draws = aurac(covered, np.stack([curves.mean_draws(curves.test[key]) for key in of], axis=1), *span)
        found.append(Area(label, float(value), *interval(draws), span))
    return found


def _difference(curves: Curves, first: PointKey, second: PointKey) -> LabelDifference | None:
    if first.budget != second.budget or first.budget is None:
        return None
    found = curves.difference(first, second, "test")
    if found is None:
        return None
    difference, seeds = found
    mean_a, mean_b = (
        sum(point.parameters for cell, point in curves.points[key] if cell.identity.seed in seeds) / len(seeds)
        for key in (first, second)
    )
    low, high = difference.interval()
    return LabelDifference(
        first.label,
        second.label,
        first.budget,
        seeds,
        (mean_a, mean_b),
        difference.mean,
        low,
        high,
        difference.p_value,
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
