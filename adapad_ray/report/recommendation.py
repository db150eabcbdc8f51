"""The smallest adapter that costs no accuracy worth speaking of."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from adapad_ray.errors import BadRequestError
from adapad_ray.files import write_text
from adapad_ray.report.curves import Curves, PointKey

FROZEN = "head_only"
"""The method that trains the head alone: an adapter of 0 parameters."""


class PointSummary(BaseModel):
    """One point of the curve; the test split is reported here and decides nothing."""

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
    """Those of the task head, which are counted apart; a causal language model has none."""
    validation_mean: float
    test_mean: float
    test_low: float
    test_high: float

    @property
    def name(self) -> str:
        """For humans: `adapad at 41,472`, `adapad at 82,944 cut to 2 components`, `the frozen backbone`."""
        if self.parameters == 0:
            return "the frozen backbone with a trained head" if self.head_parameters else "the frozen backbone"
        if self.budget is None:
            return self.label
        cut = f" cut to {self.prefix} component{'s' if self.prefix != 1 else ''}" if self.prefix is not None else ""
        return f"{self.label} at {self.budget:,}{cut}"


class Recommendation(PointSummary):
    """The recommended point, the rule that chose it and the points it was held against."""

    metric: str
    delta: float
    confidence: float
    seeds: tuple[int, ...]
    """Seeds shared with the best point, over which the two were compared."""
    lower_bound: float
    """One-sided lower confidence bound of its validation metric minus the best point's: above `-delta`."""
    best: PointSummary
    """The point with the best mean validation metric."""
    by_means_alone: PointSummary
    """The smallest point whose mean validation metric is within `delta` of the best, uncertainty ignored."""
    sentence: str


def recommend(curves: Curves, *, delta: float = 0.01, confidence: float = 0.95) -> Recommendation:
    """The point with the fewest deployed parameters that is shown to be no worse than the best by more than `delta`.

    Finals and prefixes count alike, and so does the frozen backbone; a method without budget that does train
    parameters (full fine-tuning) is a yardstick and no candidate. Only points that have as many seeds as any are
    candidates. Non-inferiority is judged on the validation split: the one-sided lower bound of the difference,
    paired by item and seed, must exceed `-delta`, for each candidate by itself.
    """
    if not delta > 0 or not 0.5 <= confidence < 1:
        raise BadRequestError(
            f"a recommendation needs delta > 0 and 0.5 <= confidence < 1, not delta {delta} and confidence {confidence}"
        )
    scores = curves.validation
    mean = {key: float(score.values.mean()) for key, score in scores.items()}
    size = {key: sum(point.parameters for _, point in group) / len(group) for key, group in curves.points.items()}
    most = max(len(score.seeds) for score in scores.values())
    candidates = [key for key in scores if len(scores[key].seeds) == most and _is_adapter(curves, key)]
    if not candidates:
        raise BadRequestError(f"{curves.folder} has no finished adapter with all {most} seeds: finish the sweep first")
    candidates.sort(key=lambda key: (size[key], -mean[key]))
    best = min(candidates, key=lambda key: (-mean[key], size[key]))

    def bound(key: PointKey) -> float:
        if key == best:
            return 0.0
        difference = curves.difference(key, best, "validation")
        return -math.inf if difference is None else difference[0].lower_bound(confidence)

    bounds = {key: bound(key) for key in candidates}
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


def write_recommendation(recommendation: Recommendation, path: Path | str) -> None:
    """Writes it as JSON, atomically."""
    write_text(path, recommendation.model_dump_json(indent=2) + "\n")


def _is_adapter(curves: Curves, key: PointKey) -> bool:
    return key.budget is not None or curves.points[key][0][0].identity.method == FROZEN


def _summary(curves: Curves, key: PointKey) -> PointSummary:
    parameters = [point.parameters for _, point in curves.points[key]]
    low, high = curves.test[key].interval
    return PointSummary(
        **key._asdict(),
        parameters=sum(parameters) / len(parameters),
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
    over = f"over {seeds} seed{'s' if seeds != 1 else ''}"
    test = (
        f"Test {metric} {chosen.test_mean:.3f} (95 % interval {chosen.test_low:.3f} to {chosen.test_high:.3f}) {over}."
    )
    if chosen == best:
        opening = (
            f"Deploy {chosen.name} ({chosen.parameters:,.0f} adapter parameters): it has the best validation {metric} "
            f"({chosen.validation_mean:.3f}), and no smaller adapter is shown to stay within {100 * delta:g} "
            f"{_points(100 * delta)} of it at {100 * confidence:g} % confidence."
        )
    else:
        opening = (
            f"Deploy {chosen.name} ({chosen.parameters:,.0f} adapter parameters): "
            f"with {100 * confidence:g} % confidence its validation {metric} ({chosen.validation_mean:.3f}) "
            f"is less than {100 * delta:g} {_points(100 * delta)} "
            f"below the best, {best.name} ({best.validation_mean:.3f}, {best.parameters:,.0f} parameters)."
        )
    if alone != chosen:
        test += (
            f" By means alone {alone.name} ({alone.parameters:,.0f} parameters, validation "
            f"{alone.validation_mean:.3f}) would do; more seeds or validation items would tell."
        )
    return f"{opening} {test}"


def _points(count: float) -> str:
    return "point" if count == 1 else "points"
