"""Which method is better, at an equal budget and over the whole curve, in numbers and in words."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from adapad_ray.report.curves import Curves, PointKey, SeedScores
from adapad_ray.report.statistics import MOST_SEEDS, Estimate, aurac, holm

ERROR_RATE = 0.05
"""Chance that a report claims even one difference that does not exist."""
Rank = tuple[int, int]
"""Best and worst rank that the data allow."""


@dataclass(frozen=True)
class Area:
    """Area under a label's test curve over log(parameters), normalised by the range (AURAC)."""

    label: str
    scores: SeedScores
    """The area of each seed's curve."""
    range: tuple[float, float]
    """Deployed parameters from which to which it was taken."""
    flops: float
    """Training FLOPs of a cell, mean over its budgets and seeds."""

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
    """None: the difference of the areas under the two curves."""
    sizes: tuple[float, float]
    """Mean deployed parameters of the two; of areas, the range."""
    flops: tuple[float, float]
    """Mean training FLOPs of a cell of the two."""
    seeds: tuple[int, ...]
    estimate: Estimate
    margin: float
    """A difference worth knowing of, for which seeds are planned beside the observed one."""
    p_adjusted: float = 1.0
    """After Holm's correction over the family."""
    family: int = 1
    """Comparisons in the family: all of a report that rest on two seeds or more."""

    @property
    def judged(self) -> bool:
        """Whether the difference can speak of the methods: one seed speaks of two trained models only."""
        return len(self.seeds) > 1

    @property
    def distinguishable(self) -> bool:
        """Whether the family-wise test at 5 % tells the two apart."""
        return self.judged and self.p_adjusted < ERROR_RATE

    @property
    def winner(self) -> str | None:
        """The label that is shown to be better."""
        if not self.distinguishable:
            return None
        return self.first if self.estimate.mean > 0 else self.second

    @property
    def where(self) -> str:
        """`at 82,944`, or `over 41,472 to 165,888`."""
        return f"over {self.sizes[0]:,.0f} to {self.sizes[1]:,.0f}" if self.budget is None else f"at {self.budget:,}"

    def seeds_needed(self, effect: float) -> float | None:
        """Seeds that resolve a difference of this size, in the family's strictest test, with a chance of 80 %.

        `inf` if no number does, or more than 1,000 would; None with one seed.
        """
        return self.estimate.seeds_needed(effect, ERROR_RATE / self.family)

    @property
    def sentence(self) -> str:
        """For humans, in points (hundredths of the metric)."""
        where = f"{self.where} with {len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"
        if not self.judged:
            return f"{self.first} and {self.second} cannot be told apart {where}: these two models {self._numbers}"
        if self.winner is None:
            return f"{self.first} and {self.second} are not distinguishable {where} ({self._numbers}); {self._plan}"
        loser = self.second if self.winner == self.first else self.first
        return f"{self.winner} is better than {loser} {where} ({self.first} − {self.second}: {self._numbers})"

    @property
    def _numbers(self) -> str:
        low, high = self.estimate.interval()
        text = f"difference {100 * self.estimate.mean:+.1f} points, 95 % interval {100 * low:.1f} to {100 * high:.1f}"
        if self.judged:
            text += f", p {_p(self.estimate.p_value)}, adjusted {_p(self.p_adjusted)}"
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
        effects = [self.margin] if _points(observed) in (_points(0), _points(self.margin)) else [observed, self.margin]
        parts: list[str] = []
        too_many: list[float] = []
        few_items: list[float] = []
        for effect in effects:
            needed = self.seeds_needed(effect)
            if needed is None or needed == math.inf:
                (few_items if self.items_needed(effect) > self.estimate.items else too_many).append(effect)
            elif needed <= len(self.seeds):
                parts.append(f"these {len(self.seeds)} seeds would resolve {_points(effect)}")
            else:
                parts.append(f"{needed:.0f} seeds would resolve {_points(effect)}")
        if too_many:
            what = " or ".join(map(_points, too_many))
            parts.append(f"more than {MOST_SEEDS:,} seeds would be needed to resolve {what}")
        if few_items:
            what = " or ".join(map(_points, few_items))
            takes = " and ".join(f"{self.items_needed(effect):,}" for effect in few_items)
            here = f"on {self.estimate.items:,} test items no number of seeds would resolve {what}"
            parts.append(f"{here} (it takes at least {takes})")
        return "; ".join(parts)

    def items_needed(self, effect: float) -> int:
        """Test items below which no number of seeds resolves a difference of this size."""
        return self.estimate.items_needed(effect, ERROR_RATE / self.family)


def label_differences(curves: Curves, margin: float = 0.01) -> list[LabelDifference]:
    """Every pair of labels at every budget that both reached, then their areas, Holm-corrected as one family."""
    finals = [key for key in curves.points if key.kind == "final" and key.budget is not None]
    found = []
    for a, b in combinations(finals, 2):
        paired = curves.test[a].minus(curves.test[b]) if a.budget == b.budget else None
        if paired is not None:
            sizes, flops = zip(*(_size_and_flops(curves, key, paired.seeds) for key in (a, b)), strict=True)
            found.append(
                LabelDifference(a.label, b.label, a.budget, sizes, flops, paired.seeds, paired.estimate, margin)
            )
    found.sort(key=lambda difference: difference.budget or 0)
    found += [
        LabelDifference(a.label, b.label, None, a.range, (a.flops, b.flops), paired.seeds, paired.estimate, margin)
        for a, b in combinations(areas(curves), 2)
        if a.range == b.range and (paired := a.scores.minus(b.scores)) is not None
    ]
    judged = [difference for difference in found if difference.judged]
    adjusted = iter(holm([difference.estimate.p_value for difference in judged]))
    return [replace(d, p_adjusted=next(adjusted), family=len(judged)) if d.judged else d for d in found]


def areas(curves: Curves) -> list[Area]:
    """AURAC of every label with two budgets, over the range that all of them cover; over its own if there is none.

    It is taken for each seed that has all the label's budgets; a label without such a seed has no area.
    """
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
        counts = Counter(seed for key in of for seed in curves.test[key].seeds)
        seeds = tuple(sorted(seed for seed, count in counts.items() if count == len(of)))
        if span[0] == span[1] or not seeds:
            continue
        covered = [curves.test[key].at(seeds) for key in of]
        values = aurac(list(of.values()), np.stack([scores.values for scores in covered], axis=-1), *span)
        draws = aurac(list(of.values()), np.stack([scores.draws for scores in covered], axis=-1), *span)
        flops = [cell.cost.train_flops for key in of for cell, _ in curves.points[key]]
        scores = SeedScores(seeds, values, draws, covered[0].items)
        found.append(Area(label, scores, span, float(np.mean(flops))))
    return found


def ranks(differences: Sequence[LabelDifference]) -> dict[int | None, dict[str, Rank]]:
    """Best and worst rank of every label that the data allow, per budget and (under None) by area.

    A label ranks behind those that are shown to be better and before those that are shown to be worse; all others
    tie with it. Since the comparisons hold together at 95 %, so do the ranks (as in Mogstad, Romano, Shaikh and
    Wilhelm, 2024).
    """
    found: dict[int | None, dict[str, Rank]] = {}
    for budget in dict.fromkeys(difference.budget for difference in differences):
        here = [difference for difference in differences if difference.budget == budget]
        labels = sorted({label for difference in here for label in (difference.first, difference.second)})
        wins = Counter(difference.winner for difference in here if difference.winner is not None)
        losses = Counter(d.second if d.winner == d.first else d.first for d in here if d.winner is not None)
        found[budget] = {label: (1 + losses[label], len(labels) - wins[label]) for label in labels}
    return found


def conclusions(differences: Sequence[LabelDifference]) -> list[str]:
    """What the differences show, and what they do not."""
    judged = [difference for difference in differences if difference.judged]
    shown = [difference for difference in judged if difference.distinguishable]
    left = [difference for difference in judged if not difference.distinguishable]
    sentences = []
    if judged:
        count, chance = len(shown), "The chance of even one false claim is at most 5 %."
        what = f"{len(judged)} comparison{'s' * (len(judged) > 1)} (equal budgets, and areas under the curves)"
        showing = f"{count} {'show' if count > 1 else 'shows'} a difference. {chance}"
        sentences.append(f"Of {what}, {showing if shown else 'none shows a difference.'}")
    sentences += _by_pair(shown)
    if left:
        widest = max(abs(end) for difference in left for end in difference.estimate.interval())
        opening = f"That the other {len(left)} show none" if shown else "That"
        sentences.append(
            f"{opening} does not mean that the methods are equal: the intervals allow differences of up to "
            f"{_points(widest)}. {_common_plan(left)}"
        )
    if len(judged) < len(differences):
        alone = len(differences) - len(judged)
        rest = f"{alone} comparison{'s rest' if alone > 1 else ' rests'} on one seed"
        sentences.append(f"{rest}, which speaks of two trained models and not of methods.")
    return sentences


def _by_pair(shown: Sequence[LabelDifference]) -> list[str]:
    pairs: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for difference in shown:
        assert difference.winner is not None
        pairs[difference.first, difference.second][difference.winner].append(difference.where)
    sentences = []
    for pair, winners in pairs.items():
        clauses = [f"{winner} is better {_listed(places)}" for winner, places in winners.items()]
        if len(winners) > 1:
            sentences.append(f"The curves of {pair[0]} and {pair[1]} cross: {' and '.join(clauses)}.")
        else:
            ((winner, places),) = winners.items()
            loser = pair[1] if winner == pair[0] else pair[0]
            sentences.append(f"{winner} is better than {loser} {_listed(places)}.")
    return sentences


def _common_plan(left: Sequence[LabelDifference]) -> str:
    """Seeds that would resolve the margin in all of them."""
    margin = left[0].margin
    needed = [count for difference in left if (count := difference.seeds_needed(margin)) is not None]
    finite = [count for count in needed if count < math.inf]
    text = ""
    if finite:
        several = len(finite) > 1
        which = ("each of them" if several else "it") if len(finite) == len(needed) else f"{len(finite)} of them"
        text = f"{max(finite):.0f} seeds would resolve {_points(margin)} in {which}"
    if len(finite) < len(needed):
        items = left[0].estimate.items
        rest = f"{len(needed) - len(finite)} cannot be resolved to {_points(margin)} with {MOST_SEEDS:,} seeds"
        text += f"{'; ' if text else ''}{rest} on {items:,} test items"
    return f"{text}."


def _listed(places: Sequence[str]) -> str:
    return places[0] if len(places) == 1 else f"{', '.join(places[:-1])} and {places[-1]}"


def _size_and_flops(curves: Curves, key: PointKey, seeds: Sequence[int]) -> tuple[float, float]:
    """Mean deployed parameters and mean training FLOPs over these seeds."""
    group = [
        (point.parameters, cell.cost.train_flops) for cell, point in curves.points[key] if cell.identity.seed in seeds
    ]
    parameters, flops = np.mean(group, axis=0)
    return float(parameters), float(flops)


def _points(difference: float) -> str:
    text = f"{100 * difference:.1f}".removesuffix(".0")
    return f"{text} point{'s' * (text != '1')}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
