"""Compares labels at equal budgets and over whole curves, in numbers and in words."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from adapad_ray.report.curves import Curves, PointKey, SeedScores, moderated
from adapad_ray.report.statistics import MOST_SEEDS, Estimate, aurac, holm
from adapad_ray.report.style.formatting import p_value, points, seed_count
from adapad_ray.wording import counted

ERROR_RATE = 0.05
"""Largest chance that a report claims one or more differences that do not exist."""
Rank = tuple[int, int]
"""Best and worst rank that are compatible with the data."""


@dataclass(frozen=True)
class Area:
    """Area under a label's test curve over log(parameters), divided by the log-range (AURAC)."""

    label: str
    scores: SeedScores
    """The areas of the seeds' curves."""
    range: tuple[float, float]
    """Lower and upper end, in deployed parameters."""
    flops: float
    """Training FLOPs per cell, mean over budgets and seeds."""

    @property
    def value(self) -> float:
        """Mean over seeds."""
        return self.scores.estimate.mean

    @property
    def low(self) -> float:
        """Lower end of the 95 % interval over seeds × items."""
        return self.scores.interval[0]

    @property
    def high(self) -> float:
        """Upper end of the 95 % interval over seeds × items."""
        return self.scores.interval[1]


@dataclass(frozen=True)
class LabelDifference:
    """`first` minus `second` on the test split, paired by seed and item."""

    first: str
    second: str
    budget: int | None
    """None for the difference of the areas under the two curves."""
    sizes: tuple[float, float]
    """Mean deployed parameters of the two; for areas, the range."""
    flops: tuple[float, float]
    """Mean training FLOPs per cell of the two."""
    seeds: tuple[int, ...]
    estimate: Estimate
    margin: float
    """Smallest difference of interest; seeds are planned for it and for the observed difference."""
    p_adjusted: float = 1.0
    """p-value after Holm's correction over the family."""
    family: int = 1
    """Number of comparisons in the family: all in the report with two or more seeds."""

    @property
    def tested(self) -> bool:
        """Whether it is a test of the methods: with one seed it compares two trained models only."""
        return len(self.seeds) > 1

    @property
    def significant(self) -> bool:
        """Whether the difference is significant at the family-wise error rate of 5 %."""
        return self.tested and self.p_adjusted < ERROR_RATE

    @property
    def winner(self) -> str | None:
        """The label that is significantly better, if one is."""
        if not self.significant:
            return None
        return self.first if self.estimate.mean > 0 else self.second

    @property
    def where(self) -> str:
        """Budget or range in prose: `at 82,944`, `over 41,472 to 165,888`."""
        return f"over {self.sizes[0]:,.0f} to {self.sizes[1]:,.0f}" if self.budget is None else f"at {self.budget:,}"

    def seeds_needed(self, effect: float) -> float | None:
        """Seeds that detect a difference of this size with a power of 80 %, in the family's strictest test.

        `inf` if more than 1,000 are needed or no number suffices; None with one seed.
        """
        return self.estimate.seeds_needed(effect, ERROR_RATE / self.family)

    @property
    def sentence(self) -> str:
        """The comparison in words, in points (hundredths of the metric)."""
        where = f"{self.where} with {seed_count(len(self.seeds))}"
        if not self.tested:
            models = f"{self.first} and {self.second} cannot be compared as methods {where}"
            return f"{models}; between the two models: {self._numbers}"
        if self.winner is None:
            return f"{self.first} and {self.second} are not distinguishable {where} ({self._numbers}); {self._plan}"
        loser = self.second if self.winner == self.first else self.first
        return f"{self.winner} is better than {loser} {where} ({self.first} − {self.second}: {self._numbers})"

    @property
    def _numbers(self) -> str:
        low, high = self.estimate.interval()
        text = f"difference {100 * self.estimate.mean:+.1f} points, 95 % interval {100 * low:.1f} to {100 * high:.1f}"
        if self.tested:
            text += f", p {p_value(self.estimate.p_value)}, adjusted {p_value(self.p_adjusted)}"
        if self.budget is not None and any(round(size) != self.budget for size in self.sizes):
            text += f"; deployed {self.sizes[0]:,.0f} and {self.sizes[1]:,.0f}"
        low, high = sorted(self.flops)
        if high > 1.1 * low > 0:
            more, less = (self.first, self.second) if self.flops[0] == high else (self.second, self.first)
            text += f"; {more} spent {high / low:.1f} times the training FLOPs of {less}"
        return text

    @property
    def _plan(self) -> str:
        observed = abs(self.estimate.mean)
        effects = [self.margin] if points(observed) in (points(0), points(self.margin)) else [observed, self.margin]
        parts: list[str] = []
        too_many: list[float] = []
        few_items: list[float] = []
        for effect in effects:
            needed = self.seeds_needed(effect)
            if needed is None or needed == math.inf:
                (few_items if self.items_needed(effect) > self.estimate.items else too_many).append(effect)
            elif needed <= len(self.seeds):
                these = "this seed" if len(self.seeds) == 1 else f"these {len(self.seeds)} seeds"
                parts.append(f"{these} would detect a difference of {points(effect)}")
            else:
                parts.append(f"{counted(needed, 'seed')} would detect a difference of {points(effect)}")
        if too_many:
            what = " or ".join(map(points, too_many))
            parts.append(f"detecting {what} would take more than {MOST_SEEDS:,} seeds")
        if few_items:
            what = " or ".join(map(points, few_items))
            takes = " and ".join(f"{self.items_needed(effect):,}" for effect in few_items)
            here = f"with {counted(self.estimate.items, 'test item')} no number of seeds would detect {what}"
            parts.append(f"{here} (at least {takes} items are needed)")
        return "; ".join(parts)

    def items_needed(self, effect: float) -> int:
        """Test items below which no number of seeds detects a difference of this size."""
        return self.estimate.items_needed(effect, ERROR_RATE / self.family)


def label_differences(curves: Curves, margin: float = 0.01) -> list[LabelDifference]:
    """Compares all pairs of labels at each common budget, then their areas, Holm-corrected as one family.

    `margin` is the smallest difference of interest, for which seeds are planned.
    """
    finals = [key for key in curves.points if key.kind == "final" and key.budget is not None]
    pairs = {
        (a, b): paired
        for a, b in combinations(finals, 2)
        if a.budget == b.budget and (paired := curves.test[a].minus(curves.test[b])) is not None
    }
    differences = []
    for (a, b), paired in zip(pairs, moderated(list(pairs.values())), strict=True):
        sizes, flops = zip(*(_size_and_flops(curves, key, paired.seeds) for key in (a, b)), strict=True)
        differences.append(
            LabelDifference(a.label, b.label, a.budget, sizes, flops, paired.seeds, paired.estimate, margin)
        )
    differences.sort(key=lambda difference: difference.budget or 0)
    differences += [
        LabelDifference(a.label, b.label, None, a.range, (a.flops, b.flops), paired.seeds, paired.estimate, margin)
        for a, b in combinations(areas(curves), 2)
        if a.range == b.range and (paired := a.scores.minus(b.scores)) is not None
    ]
    tested = [difference for difference in differences if difference.tested]
    adjusted = iter(holm([difference.estimate.p_value for difference in tested]))
    return [replace(d, p_adjusted=next(adjusted), family=len(tested)) if d.tested else d for d in differences]


def areas(curves: Curves) -> list[Area]:
    """Computes the AURAC of each label that has two or more budgets.

    The range is the one that all these labels cover, or the label's own range if there is no common one. The seeds are
    those that have all budgets of the label; a label without such a seed has no area.
    """
    sizes: dict[str, dict[PointKey, float]] = {}
    for key in curves.points:
        parameters = curves.parameters(key)
        if key.kind == "final" and key.budget is not None and parameters > 0:
            sizes.setdefault(key.label, {})[key] = parameters
    sizes = {label: dict(sorted(of.items(), key=lambda e: e[1])) for label, of in sizes.items() if len(of) > 1}
    if not sizes:
        return []
    low = max(min(of.values()) for of in sizes.values())
    high = min(max(of.values()) for of in sizes.values())
    computed = []
    for label, of in sizes.items():
        span = (low, high) if low < high else (min(of.values()), max(of.values()))
        counts = Counter(seed for key in of for seed in curves.test[key].seeds)
        seeds = tuple(sorted(seed for seed, count in counts.items() if count == len(of)))
        if span[0] == span[1] or not seeds:
            continue
        covered = [curves.test[key].select(seeds) for key in of]
        values = aurac(list(of.values()), np.stack([scores.values for scores in covered], axis=-1), *span)
        draws = aurac(list(of.values()), np.stack([scores.draws for scores in covered], axis=-1), *span)
        flops = [cell.cost.train_flops for key in of for cell, _ in curves.points[key]]
        scores = replace(covered[0], values=values, draws=draws)
        computed.append(Area(label, scores, span, float(np.mean(flops))))
    return computed


def ranks(differences: Sequence[LabelDifference]) -> dict[int | None, dict[str, Rank]]:
    """Computes the best and worst rank of each label, per budget and (under None) by area.

    A label ranks below those that are significantly better and above those that are significantly worse; it ties with
    all others. The comparisons hold simultaneously at 95 %, and so do the ranks (Mogstad, Romano, Shaikh and Wilhelm,
    2024).
    """
    by_budget: dict[int | None, dict[str, Rank]] = {}
    for budget in dict.fromkeys(difference.budget for difference in differences):
        here = [difference for difference in differences if difference.budget == budget]
        labels = sorted({label for difference in here for label in (difference.first, difference.second)})
        wins = Counter(difference.winner for difference in here if difference.winner is not None)
        losses = Counter(d.second if d.winner == d.first else d.first for d in here if d.winner is not None)
        by_budget[budget] = {label: (1 + losses[label], len(labels) - wins[label]) for label in labels}
    return by_budget


def conclusions(differences: Sequence[LabelDifference]) -> list[str]:
    """Summarises in sentences what the differences show and what they leave open."""
    tested = [difference for difference in differences if difference.tested]
    shown = [difference for difference in tested if difference.significant]
    left = [difference for difference in tested if not difference.significant]
    sentences = []
    if tested:
        family = f"{len(tested)} comparison{'s' * (len(tested) > 1)} (equal budgets, and areas under the curves)"
        result = "none shows a difference."
        if shown:
            result = f"{len(shown)} {'show' if len(shown) > 1 else 'shows'} a difference. "
            result += "The chance that one or more of these claims are false is at most 5 %."
        sentences.append(f"Of {family}, {result}")
    sentences += _by_pair(shown)
    if left:
        widest = max(abs(end) for difference in left for end in difference.estimate.interval())
        opening = f"That the other {len(left)} show none" if shown else "This"
        sentences.append(
            f"{opening} does not mean that the methods are equal: the intervals allow differences of up to "
            f"{points(widest)}. {_common_plan(left)}"
        )
    if len(tested) < len(differences):
        alone = len(differences) - len(tested)
        some = (
            f"{alone} comparisons have one seed each and compare"
            if alone > 1
            else "1 comparison has one seed and compares"
        )
        sentences.append(f"{some} two trained models, not two methods.")
    return sentences


def _by_pair(shown: Sequence[LabelDifference]) -> list[str]:
    pairs: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for difference in shown:
        assert difference.winner is not None
        pairs[difference.first, difference.second][difference.winner].append(difference.where)
    sentences = []
    for pair, winners in pairs.items():
        clauses = [f"{winner} is better {_listed(conditions)}" for winner, conditions in winners.items()]
        if len(winners) > 1:
            sentences.append(f"The curves of {pair[0]} and {pair[1]} cross: {' and '.join(clauses)}.")
        else:
            ((winner, conditions),) = winners.items()
            loser = pair[1] if winner == pair[0] else pair[0]
            sentences.append(f"{winner} is better than {loser} {_listed(conditions)}.")
    return sentences


def _common_plan(left: Sequence[LabelDifference]) -> str:
    """The number of seeds that detects the margin in all of these comparisons."""
    margin = left[0].margin
    needed = [count for difference in left if (count := difference.seeds_needed(margin)) is not None]
    finite = [count for count in needed if count < math.inf]
    text = ""
    if finite:
        several = len(finite) > 1
        which = ("each of them" if several else "it") if len(finite) == len(needed) else f"{len(finite)} of them"
        text = f"{counted(max(finite), 'seed')} would detect a difference of {points(margin)} in {which}"
    if len(finite) < len(needed):
        items = left[0].estimate.items
        rest = f"not even {MOST_SEEDS:,} would detect {points(margin)} in {len(needed) - len(finite)}"
        if not text:
            rest = f"Not even {MOST_SEEDS:,} seeds would detect a difference of {points(margin)}"
        text += f"{'; ' if text else ''}{rest} with {counted(items, 'test item')}"
    return f"{text}."


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _size_and_flops(curves: Curves, key: PointKey, seeds: Sequence[int]) -> tuple[float, float]:
    """Mean deployed parameters and mean training FLOPs, over these seeds."""
    group = [
        (point.parameters, cell.cost.train_flops) for cell, point in curves.points[key] if cell.identity.seed in seeds
    ]
    parameters, flops = np.mean(group, axis=0)
    return float(parameters), float(flops)
