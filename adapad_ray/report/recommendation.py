"""The recommendation: the smallest adapter that is not worse than the best by more than a margin."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from adapad_ray.errors import BadRequestError
from adapad_ray.report.curves import Curves, PointKey, moderated
from adapad_ray.report.style.formatting import margin, seed_count

FROZEN = "head_only"
"""The method that trains only the task head: an adapter of 0 parameters."""


class PointSummary(BaseModel):
    """A point of the curve. Its test scores are reported and never used for a choice."""

    model_config = ConfigDict(frozen=True)

    label: str
    budget: int | None
    kind: str
    prefix: int | None
    parameters: float
    """Deployed adapter parameters, mean over seeds."""
    parameters_low: int
    parameters_high: int
    head_parameters: int
    """Parameters of the task head, which the budget excludes; 0 for a causal language model."""
    validation_mean: float
    test_mean: float
    test_low: float
    test_high: float

    @property
    def name(self) -> str:
        """Name in prose: `adapad at 41,472`, `adapad at 82,944 cut to 2 components`, `the frozen backbone`."""
        if self.parameters == 0:
            return "the frozen backbone with a trained head" if self.head_parameters else "the frozen backbone"
        if self.budget is None:
            return self.label
        cut = ""
        if self.prefix is not None:
            cut = f" cut to {self.prefix} component{'s' if self.prefix != 1 else ''} per module"
        return f"{self.label} at {self.budget:,}{cut}"


class Recommendation(PointSummary):
    """The recommended point, the rule that selected it, and the points that it was compared with."""

    metric: str
    delta: float
    confidence: float
    seeds: tuple[int, ...]
    """Seeds that it shares with the best point; the comparison is over these."""
    lower_bound: float
    """One-sided lower confidence bound of its validation metric minus that of the best point; above `-delta`."""
    best: PointSummary
    """The point with the best mean validation metric."""
    by_means_alone: PointSummary
    """The smallest point whose mean validation metric is within `delta` of the best, ignoring uncertainty."""
    sentence: str


def recommend(curves: Curves, *, delta: float = 0.01, confidence: float = 0.95) -> Recommendation:
    """Recommends the point with the fewest deployed parameters that is non-inferior to the best point.

    Candidates are final models, prefixes and the frozen backbone, if they have as many seeds as any point. Methods
    that train parameters without a budget (full fine-tuning) are references, not candidates. A candidate is
    non-inferior if the one-sided lower bound of its validation metric minus the best one's, paired by item and seed,
    exceeds `-delta`. Each candidate is tested by itself.

    Raises:
        BadRequestError: `delta` or `confidence` is out of range, or no candidate has all seeds.
    """
    if not delta > 0 or not 0.5 <= confidence < 1:
        raise BadRequestError(
            f"delta must be above 0 and confidence in [0.5, 1), but got delta {delta} and confidence {confidence}"
        )
    scores = curves.validation
    mean = {key: float(score.values.mean()) for key, score in scores.items()}
    size = {key: curves.parameters(key) for key in scores}
    most = max(len(score.seeds) for score in scores.values())
    candidates = [key for key in scores if len(scores[key].seeds) == most and _is_adapter(curves, key)]
    if not candidates:
        seeds = "its seed" if most == 1 else f"all {most} seeds"
        raise BadRequestError(f"{curves.folder} has no finished adapter with {seeds}: finish the sweep first")
    candidates.sort(key=lambda key: (size[key], -mean[key]))
    best = min(candidates, key=lambda key: (-mean[key], size[key]))

    behind = {key: scores[key].minus(scores[best]) for key in candidates if key != best}
    bounds = dict.fromkeys(candidates, -math.inf) | {best: 0.0}
    shared = {key: difference for key, difference in behind.items() if difference is not None}
    for key, difference in zip(shared, moderated(list(shared.values())), strict=True):
        bounds[key] = difference.estimate.lower_bound(confidence)
    chosen = next(key for key in candidates if bounds[key] > -delta)
    alone = next(key for key in candidates if mean[key] >= mean[best] - delta)
    chosen_point, best_point, alone_point = (_summary(curves, key) for key in (chosen, best, alone))
    return Recommendation(
        **chosen_point.model_dump(),
        metric=curves.metric,
        delta=delta,
        confidence=confidence,
        seeds=tuple(seed for seed in scores[chosen].seeds if seed in scores[best].seeds),
        lower_bound=bounds[chosen],
        best=best_point,
        by_means_alone=alone_point,
        sentence=_sentence(chosen_point, best_point, alone_point, curves.metric, delta, confidence, most),
    )


def _is_adapter(curves: Curves, key: PointKey) -> bool:
    return key.budget is not None or curves.points[key][0][0].identity.method == FROZEN


def _summary(curves: Curves, key: PointKey) -> PointSummary:
    parameters = [point.parameters for _, point in curves.points[key]]
    low, high = curves.test[key].interval
    return PointSummary(
        **key._asdict(),
        parameters=curves.parameters(key),
        parameters_low=min(parameters),
        parameters_high=max(parameters),
        head_parameters=curves.points[key][0][1].head_parameters,
        validation_mean=float(curves.validation[key].values.mean()),
        test_mean=float(curves.test[key].values.mean()),
        test_low=low,
        test_high=high,
    )


def _sentence(
    chosen: PointSummary,
    best: PointSummary,
    alone: PointSummary,
    metric: str,
    delta: float,
    confidence: float,
    seeds: int,
) -> str:
    over = f"over {seed_count(seeds)}"
    test = (
        f"Test {metric} {chosen.test_mean:.3f} (95 % interval {chosen.test_low:.3f} to {chosen.test_high:.3f}) {over}."
    )
    if chosen == best and chosen.parameters == 0:
        opening = f"No adapter has a better validation {metric} than {chosen.name} ({chosen.validation_mean:.3f})."
    elif chosen == best:
        opening = (
            f"Deploy {chosen.name} ({chosen.parameters:,.0f} adapter parameters): it has the best validation {metric} "
            f"({chosen.validation_mean:.3f}), and no smaller adapter is shown to stay within {margin(delta)} of it at "
            f"{100 * confidence:g} % confidence."
        )
    else:
        opening = (
            f"Deploy {chosen.name} ({chosen.parameters:,.0f} adapter parameters): "
            f"with {100 * confidence:g} % confidence its validation {metric} ({chosen.validation_mean:.3f}) "
            f"is less than {margin(delta)} below the best, {best.name} ({best.validation_mean:.3f}, "
            f"{best.parameters:,.0f} parameters)."
        )
    if alone != chosen:
        test += (
            f" Judged by means alone, {alone.name} ({alone.parameters:,.0f} parameters, validation "
            f"{alone.validation_mean:.3f}) would suffice; deciding that takes more seeds or validation items."
        )
    return f"{opening} {test}"
