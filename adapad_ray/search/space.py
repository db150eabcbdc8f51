"""Search spaces, and the points of the tune stage: a fixed quasi-random list.

The points depend only on the space, the seed and their number: not on the order in which trials finish, on cells of
earlier launches, or on kills.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import optuna

from adapad_ray.errors import BadRequestError
from adapad_ray.quiet import quiet_optuna
from adapad_ray.spelling import closest

Space = Mapping[str, Mapping[str, Sequence[Any]]]
"""`{name: {log | uniform | int: [low, high]}}` or `{name: {choice: [...]}}`."""

Distributions = Mapping[str, optuna.distributions.BaseDistribution]
"""A space as Optuna's distributions, by name in alphabetical order."""

_KINDS = ("log", "uniform", "int", "choice")
_DIGITS = 4


def quasi_random_points(space: Space, n: int, seed: int) -> list[dict[str, Any]]:
    """The first `n` points of a scrambled Sobol sequence over `space` (Optuna's QMC sampler).

    Of a space of choices and whole numbers each point is drawn once: with as many trials as points, the list is a grid,
    and it is never longer. A longer list begins with the shorter one. Real numbers have 4 significant digits, so that a
    cell's identity does not depend on the last bit of a logarithm. Names are used in alphabetical order: the file's
    order does not matter.

    Raises:
        BadRequestError: the space is not valid; the message names key and value.
    """
    if n < 0:
        raise BadRequestError(f"tune.trials cannot be negative but got {n}")
    distributions = parse_space(space)
    size = number_of_points(distributions)
    drawn = _sequence(distributions, seed)
    if size is not None:
        drawn, n = _distinct(drawn), min(n, size)
    return [{name: point[name] for name in space} for point in islice(drawn, n)]


def _distinct(points: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for point in points:
        key = repr(point)  # 1 and True are two choices
        if key not in seen:
            seen.add(key)
            yield point


def number_of_points(distributions: Distributions) -> int | None:
    """How many points a space of choices and whole numbers has; None for a space with ranges of real numbers."""
    sizes = list(map(_size, distributions.values()))
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def _size(distribution: optuna.distributions.BaseDistribution) -> int | None:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, optuna.distributions.IntDistribution):
        return int(distribution.high - distribution.low + 1)
    return None


def quasi_random_list(distributions: Distributions, n: int, seed: int) -> list[dict[str, Any]]:
    """The first `n` points of the sequence over a parsed space; of choices, a point can stand there more than once."""
    return list(islice(_sequence(distributions, seed), n))


def _sequence(distributions: Distributions, seed: int) -> Iterator[dict[str, Any]]:
    with quiet_optuna():
        study = optuna.create_study(sampler=quasi_random_sampler(seed))
    # The sampler draws the first trial of a study at random and copies its space: this first trial never runs.
    anchor = optuna.create_trial(params=_any_point(distributions), distributions=dict(distributions), value=0.0)
    study.add_trial(anchor)
    while True:
        yield point_of(study.ask(fixed_distributions=dict(distributions)).params, distributions)


def point_of(params: Mapping[str, Any], distributions: Distributions) -> dict[str, Any]:
    """A trial's parameters as a cell has them: real numbers with 4 significant digits."""
    return {name: _rounded(params[name], distribution) for name, distribution in distributions.items()}


def interpolated(
    distributions: Distributions, low: Mapping[str, Any], high: Mapping[str, Any], share: float
) -> dict[str, Any]:
    """The point at `share` (0 to 1) of the way between two points.

    A range that is searched on a logarithmic scale is interpolated on it, and so is a choice of positive floats, such
    as learning rates. Of any other choice it is the value of the nearer point.
    """
    return {name: _between(distributions[name], low[name], high[name], share) for name in low}


def _between(distribution: optuna.distributions.BaseDistribution, a: Any, b: Any, share: float) -> Any:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        rates = all(isinstance(value, float) and value > 0 for value in distribution.choices)
        if not rates or share in (0, 1) or a == b:
            return a if share < 0.5 else b
        return float(f"{_geometric(a, b, share):.{_DIGITS}g}")
    log = getattr(distribution, "log", False)
    value = _geometric(a, b, share) if log else (1 - share) * a + share * b
    whole = isinstance(distribution, optuna.distributions.IntDistribution)
    return _rounded(round(value) if whole else value, distribution)


def _geometric(a: float, b: float, share: float) -> float:
    return math.exp((1 - share) * math.log(a) + share * math.log(b))


def parse_space(space: Space, where: str = "tune.space") -> dict[str, optuna.distributions.BaseDistribution]:
    """Parses a space into Optuna's distributions, by name in alphabetical order; `where` is its key in the file.

    Raises:
        BadRequestError: the message names key, value, and what would be right.
    """
    if not space:
        raise BadRequestError(
            f"{where} is empty: name at least one hyperparameter, as in {{learning_rate: {{log: [1e-4, 1e-2]}}}}"
        )
    return {name: _distribution(f"{where}.{name}", space[name]) for name in sorted(space)}


def whole_numbers(distribution: optuna.distributions.BaseDistribution) -> optuna.distributions.BaseDistribution:
    """The same range over whole numbers; other distributions are returned unchanged."""
    if not isinstance(distribution, optuna.distributions.FloatDistribution):
        return distribution
    return optuna.distributions.IntDistribution(int(distribution.low), int(distribution.high), log=distribution.log)


def _distribution(where: str, spec: Any) -> optuna.distributions.BaseDistribution:
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise BadRequestError(
            f"{where} must have exactly one of {', '.join(_KINDS)} but got {spec!r}, as in {{log: [1e-4, 1e-2]}}"
        )
    [(kind, values)] = spec.items()
    if kind not in _KINDS:
        near = closest(kind, _KINDS)
        hint = f"did you mean {near}? " if near else ""
        raise BadRequestError(f"{where}.{kind} is not a kind of range: {hint}use one of {', '.join(_KINDS)}")
    if not isinstance(values, (list, tuple)):
        raise BadRequestError(f"{where}.{kind} must be a list but got {values!r}")
    if kind == "choice":
        return _choice(where, values)
    if len(values) != 2 or not all(_is_number(value) for value in values):
        raise BadRequestError(f"{where}.{kind} must be two finite numbers [low, high] but got {list(values)!r}")
    low, high = values
    if kind == "int" and not (float(low).is_integer() and float(high).is_integer()):
        raise BadRequestError(f"{where}.int must be two whole numbers but got {list(values)!r}")
    if low >= high:
        raise BadRequestError(f"{where}.{kind} needs low < high but got {list(values)!r}")
    if kind == "log" and low <= 0:
        raise BadRequestError(f"{where}.log needs low > 0 but got {low!r}: use uniform for a range with zero")
    if kind == "int":
        return optuna.distributions.IntDistribution(int(low), int(high))
    return optuna.distributions.FloatDistribution(float(low), float(high), log=kind == "log")


def _choice(where: str, values: Sequence[Any]) -> optuna.distributions.CategoricalDistribution:
    if not values:
        raise BadRequestError(f"{where}.choice is empty: give at least one value")
    for value in values:
        if value is not None and not isinstance(value, (bool, int, float, str)):
            raise BadRequestError(f"{where}.choice takes numbers, strings, booleans and null but got {value!r}")
    twice = [value for value, count in Counter(map(str, values)).items() if count > 1]
    if twice:
        raise BadRequestError(f"{where}.choice has {twice[0][:100]} twice: remove one")
    return optuna.distributions.CategoricalDistribution(tuple(values))


def _is_number(value: Any) -> bool:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return plain and math.isfinite(value) and abs(value) < 2**63


def _rounded(value: Any, distribution: optuna.distributions.BaseDistribution) -> Any:
    if not isinstance(distribution, optuna.distributions.FloatDistribution):
        return value
    return min(max(float(f"{value:.{_DIGITS}g}"), distribution.low), distribution.high)


def _any_point(distributions: Distributions) -> dict[str, Any]:
    return {
        name: d.choices[0] if isinstance(d, optuna.distributions.CategoricalDistribution) else d.low  # type: ignore[attr-defined]
        for name, d in distributions.items()
    }


def quasi_random_sampler(seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of the sequence, which the studies of the tune stage also have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.QMCSampler(qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False)
