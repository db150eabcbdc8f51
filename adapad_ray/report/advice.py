"""The recommendation in words: what to take, how sure that is, and what would tell more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from adapad_ray.report.statistics import Estimate
from adapad_ray.report.style.formatting import margin, metric_name, points, seed_count
from adapad_ray.wording import counted

if TYPE_CHECKING:
    from adapad_ray.report.recommendation import PointSummary, Recommendation
    from adapad_ray.tasks import SplitSize

MOST_ITEMS = 1_000_000
"""Largest number of items that advice asks for."""
_NUMBERS = ("Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")


def sentence(chosen: Recommendation) -> str:
    """The recommendation and its test score. Ties are called ties, and the frozen backbone is no adapter."""
    metric, share = metric_name(chosen.metric), f"{100 * chosen.confidence:g} %"
    parts = []
    if chosen.tied > 1:
        unit = f"; one of {chosen.items:,} items is {points(1 / chosen.items)}" if chosen.right_or_wrong else ""
        parts.append(
            f"{_several(chosen.tied)} models share the best validation {metric} ({chosen.best.validation_mean:.3f}"
            f"{unit})."
        )
    smaller = f"no smaller adapter is shown to stay within {margin(chosen.delta)} of it at {share} confidence"
    behind = (
        f"with {share} confidence its validation {metric} ({chosen.validation_mean:.3f}) is less than "
        f"{margin(chosen.delta)} below the best, {chosen.best.name} ({chosen.best.validation_mean:.3f}, "
        f"{chosen.best.parameters:,.0f} parameters)"
    )
    if chosen.parameters == 0:
        reason = behind
        if chosen.is_best:
            reason = f"it has the best validation {metric} ({chosen.validation_mean:.3f})"
            reason = "it is one of them" if chosen.tied > 1 else reason
        head = f" ({chosen.head_parameters:,} parameters)" if chosen.head_parameters else ""
        if chosen.adapters:
            parts.append(f"No adapter is needed: {chosen.name}{head} is a reference without one, and {reason}.")
        else:
            parts.append(
                f"No adapter has finished with every seed: there is nothing to deploy, and {chosen.name}{head} is a "
                f"reference without one."
            )
        if chosen.smallest_adapter is not None:
            parts.append(f"The smallest adapter that is as good by this rule is {_sized(chosen.smallest_adapter)}.")
    elif not chosen.is_best:
        parts.append(f"Deploy {_sized(chosen)}: {behind}.")
    elif chosen.tied > 1:
        smallest = "the smallest of them" if chosen.smallest_tied == 1 else "one of the smallest of them"
        which = "one of them" if chosen.smallest_tied == chosen.tied else smallest
        parts.append(f"Deploy {which}, {_sized(chosen)}; {smaller}.")
    else:
        best = f"it has the best validation {metric} ({chosen.validation_mean:.3f})"
        parts.append(f"Deploy {_sized(chosen)}: {best}, and {smaller}.")
    parts.append(
        f"Test {metric} {chosen.test_mean:.3f} (95 % interval {chosen.test_low:.3f} to {chosen.test_high:.3f}) over "
        f"{seed_count(len(chosen.seeds))}."
    )
    if chosen.by_means_alone.point != chosen.point:
        alone = chosen.by_means_alone
        parts.append(
            f"Judged by means alone, {alone.name} ({alone.parameters:,.0f} parameters, validation "
            f"{alone.validation_mean:.3f}) would suffice."
        )
    return " ".join(parts)


def next_step(
    chosen: Recommendation, alone: Estimate | None, test: Estimate, splits: Mapping[str, SplitSize] | None = None
) -> str:
    """What would tell more, or that nothing more is needed.

    Args:
        chosen: the recommendation.
        alone: validation metric of `by_means_alone` minus that of the best; None if it is the recommendation.
        test: the recommended point's test metric.
        splits: how many rows there are, if that is known.
    """
    splits = splits or {}
    error_rate = 2 * (1 - chosen.confidence)  # of a one-sided test
    within = math.ceil(math.log(1 - chosen.confidence) / math.log1p(-min(chosen.delta, 0.99)))
    if not chosen.adapters:
        return "Next: an adapter that finishes. The reasons why none did are in the table of failed cells."
    if chosen.right_or_wrong and chosen.items < within:
        return (
            f"Next: more validation items. {counted(chosen.items, 'item')} cannot show that two models differ by less "
            f"than {margin(chosen.delta)}; that takes at least {within:,}.{_where_from(within, splits)}"
        )
    if len(chosen.seeds) == 1:
        return "Next: three or more seeds. One seed does not show how much a result varies from training to training."
    if alone is None:
        return _good_enough(chosen, test, splits)
    subject = f"whether {chosen.by_means_alone.name} suffices"
    gap = alone.mean + chosen.delta
    needed = alone.seeds_needed(gap, error_rate)
    if needed is not None and math.isfinite(needed):
        seeds = max(int(needed), len(chosen.seeds) + 1)
        return f"Next: {seed_count(seeds)} instead of {len(chosen.seeds)} would probably tell {subject}."
    items = alone.items_needed(gap, error_rate)
    if chosen.items < items <= MOST_ITEMS:
        return (
            f"Next: more validation items. With {chosen.items:,} no number of seeds tells {subject}; it takes at least "
            f"{items:,}.{_where_from(items, splits)}"
        )
    return f"Next: keep this one. No realistic number of seeds or items tells {subject}: it is too close to the margin."


def _where_from(items: int, splits: Mapping[str, SplitSize]) -> str:
    """A sentence on where so many validation items can come from, or that there are not so many."""
    if (size := splits.get("validation")) is None:
        return ""
    there_are = size.available or size.rows
    if items <= there_are:
        return f" There are {there_are:,}: raise training.max_validation_examples."
    if not size.carved:
        return f" There are only {there_are:,}: a larger delta would tell with fewer."
    return f" There are only {there_are:,}: take a larger share of the data (task.shares), or a larger delta."


def _good_enough(chosen: Recommendation, test: Estimate, splits: Mapping[str, SplitSize]) -> str:
    text = "Good enough: means alone give the same choice"
    width = (chosen.test_high - chosen.test_low) / 2
    if width <= chosen.delta:
        return f"{text}."
    items = math.ceil(test.items * test.of_items * (1.96 / chosen.delta) ** 2)
    known = f"{text}. The test score is known to ±{points(width)} with {counted(test.items, 'test item')}"
    if test.items < items <= MOST_ITEMS:
        size = splits.get("test")
        there_are = items if size is None else size.available or size.rows
        limit = f", and there are {there_are:,}" if there_are < items else ""
        return f"{known}; ±{margin(chosen.delta)} takes at least {items:,}{limit}."
    return f"{known}; more seeds would narrow that."


def _sized(point: PointSummary) -> str:
    return f"{point.name} ({point.parameters:,.0f} adapter parameters)"


def _several(number: int) -> str:
    return _NUMBERS[number - 2] if number - 2 < len(_NUMBERS) else f"{number:,}"
