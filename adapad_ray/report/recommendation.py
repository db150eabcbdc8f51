"""The recommendation: the smallest adapter that is not worse than the best by more than a margin."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from adapad_ray.errors import BadRequestError
from adapad_ray.report import advice
from adapad_ray.report.curves import Curves, PointKey, best_member, moderated
from adapad_ray.tasks import SplitSize

RECOMMENDATION = "recommendation.json"
"""File of the recommendation in a sweep's folder."""
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

    @property
    def point(self) -> PointKey:
        """Which point of the curve it is."""
        return PointKey(self.label, self.budget, self.kind, self.prefix)


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
    smallest_adapter: PointSummary | None
    """The recommended point or, if that is the frozen backbone, the smallest adapter that meets the same rule."""
    adapters: int
    """Candidates that are adapters: 0 if none has finished with all seeds."""
    tied: int
    """Points that share the best mean validation metric."""
    smallest_tied: int = 1
    """How many of these have as few parameters as the smallest of them. Absent from older files."""
    items: int
    """Validation items."""
    right_or_wrong: bool
    """Whether the metric judges each item as right or wrong, so that one item changes it by `1 / items`."""
    seed: int
    """The seed with the best validation metric, whose adapter is exported."""
    adapter: str | None
    """Folder of the adapter, relative to the sweep's folder; None for the frozen backbone."""
    command: str | None
    """The command that exports this adapter, to be run in the sweep's folder; None for the frozen backbone."""
    sentence: str = ""
    next_step: str = ""
    """How many more seeds or items would tell more, or that it is good enough."""

    @property
    def is_best(self) -> bool:
        """Whether it is the point with the best mean validation metric, the smallest of equals."""
        return self.point == self.best.point


def recommend(
    curves: Curves,
    *,
    delta: float = 0.01,
    confidence: float = 0.95,
    splits: Mapping[str, SplitSize] | None = None,
) -> Recommendation:
    """Recommends the point with the fewest deployed parameters that is non-inferior to the best point.

    Candidates are final models, prefixes and the frozen backbone, if they have as many seeds as any point. Methods
    that train parameters without a budget (full fine-tuning) are references, not candidates. A candidate is
    non-inferior if the one-sided lower bound of its validation metric minus the best one's, paired by item and seed,
    exceeds `-delta`. Each candidate is tested by itself.

    Args:
        splits: how many rows there are, if that is known; advice names no more.

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
    moderated_behind = dict(zip(shared, moderated(list(shared.values())), strict=True))
    for key, difference in moderated_behind.items():
        bounds[key] = difference.estimate.lower_bound(confidence)
    chosen = next(key for key in candidates if bounds[key] > -delta)
    alone = next(key for key in candidates if mean[key] >= mean[best] - delta)
    adapters = [key for key in candidates if size[key] > 0 and bounds[key] > -delta]
    cell, point = best_member(curves.points[chosen])
    tied = [key for key in candidates if math.isclose(mean[key], mean[best], abs_tol=1e-9)]
    found = Recommendation(
        **_summary(curves, chosen).model_dump(),
        metric=curves.metric,
        delta=delta,
        confidence=confidence,
        seeds=tuple(seed for seed in scores[chosen].seeds if seed in scores[best].seeds),
        lower_bound=bounds[chosen],
        best=_summary(curves, best),
        by_means_alone=_summary(curves, alone),
        smallest_adapter=_summary(curves, adapters[0]) if adapters else None,
        adapters=sum(size[key] > 0 for key in candidates),
        tied=len(tied),
        smallest_tied=sum(size[key] == size[best] for key in tied),
        items=scores[chosen].items,
        right_or_wrong=scores[chosen].right_or_wrong,
        seed=cell.identity.seed,
        adapter=None if point.adapter is None else f"cells/{cell.id}/{point.adapter}",
        command=None if point.adapter is None else export_command(".", chosen, cell.identity.seed),
    )
    at_alone = moderated_behind[alone].estimate if alone != chosen and alone in moderated_behind else None
    step = advice.next_step(found, at_alone, curves.test[chosen].estimate, splits)
    return found.model_copy(update={"sentence": advice.sentence(found), "next_step": step})


def export_command(folder: str, point: PointKey, seed: int | None = None, sweep: str = "") -> str:
    """The command that exports a point's adapter from a sweep's folder or URL.

    Args:
        sweep: its name, which is then the beginning of the new folder's.
    """
    parts = ["adapad", "export", folder, "--method", point.label, "--budget", str(point.budget or 0)]
    parts += ["--prefix", str(point.prefix)] if point.prefix is not None else []
    parts += ["--seed", str(seed)] if seed is not None else []
    return shlex.join([*parts, "--to", export_folder(point, sweep)])


def recommended_command(folder: str, recommended: PointKey, sweep: str) -> str:
    """The command that exports the recommended adapter from a sweep's folder or URL."""
    return shlex.join(["adapad", "export", folder, "--recommended", "--to", export_folder(recommended, sweep)])


def export_folder(point: PointKey, sweep: str) -> str:
    """A name for the folder of an exported adapter: `quickstart-lora-41472`, `quickstart-adapad-82944-prefix-2`."""
    parts = [sweep, point.label, *([] if point.budget is None else [str(point.budget)])]
    parts += [] if point.prefix is None else ["prefix", str(point.prefix)]
    return "-".join(filter(None, (re.sub(r"[^\w.]+", "-", part).strip("-.") for part in parts)))


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
