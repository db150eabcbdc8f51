"""Points that stand for a whole search space, so that a setting is checked before any point is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from adapad_ray.search.space import Distributions, point_of

_MOST_WHOLE = 64
"""Values of a range of whole numbers that are all tried; of a longer range, as many that are spread over it."""
_MOST_JOINT = 8
"""Values of one setting that are tried together with those of another. This project's choice, like the one above."""


def values_of(name: str, distributions: Distributions) -> list[Any]:
    """Values of one setting: all choices, or both ends of a range and values between them, as trials have them."""
    distribution = distributions[name]
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntDistribution):
        last = min(int(high - low), _MOST_WHOLE - 1)
        return [low, high, *(int(low) + round(step * int(high - low) / last) for step in range(1, last))]
    inner = [low + share * (high - low) for share in (0.381966, 0.618034)]  # hardly ever whole numbers
    return [point_of({name: value}, {name: distribution})[name] for value in (low, high, *inner)]


def points_over(distributions: Distributions) -> Iterator[dict[str, Any]]:
    """Points with every value of each setting, and with pairs of values of any two settings.

    The other settings have their first value. Every point lies in the space. A constraint joins two settings at most.
    """
    values = {name: values_of(name, distributions) for name in distributions}
    first = {name: known[0] for name, known in values.items()}
    yield first
    for name, known in values.items():
        yield from ({**first, name: value} for value in known[1:])
    for one, other in combinations(values, 2):
        pairs = product(values[one][1:_MOST_JOINT], values[other][1:_MOST_JOINT])
        yield from ({**first, one: a, other: b} for a, b in pairs)
