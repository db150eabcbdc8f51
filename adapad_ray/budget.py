"""Parameter budgets: what a component costs, the ledger that is charged for it, and who grows next.

Everything here is exact integer arithmetic on shapes; no tensor library is needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from adapad_ray.errors import BadRequestError

_BUDGET = re.compile(r"\s*(?P<number>\d[\d_,]*\.?\d*)\s*(?P<unit>k|m|b|%|ranks?)?\s*", re.IGNORECASE)
_FACTOR = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}


@dataclass(frozen=True)
class ModuleShape:
    """A linear layer of the backbone that may carry an adapter."""

    name: str
    """Full path inside the model, for instance `bert.encoder.layer.0.attention.self.query`."""
    in_features: int
    out_features: int
    heads: int = 1
    """Attention heads that own a slice each of the output features, or of the input features where `heads_read`."""
    heads_read: bool = False
    """Whether the slices are of the input, as in an attention's output projection."""

    @property
    def component_cost(self) -> int:
        """Parameters of one plain rank-1 component: `in_features + out_features`."""
        return self.in_features + self.out_features

    @property
    def max_rank(self) -> int:
        """Largest rank that adds anything: `min(in_features, out_features)`."""
        return min(self.in_features, self.out_features)


class BudgetTooSmallError(BadRequestError):
    """The budget is below the smallest adapter of this method: a gap of the curve, not a failure."""


def parse_budget(value: int | float | str, *, modules: Sequence[ModuleShape], backbone_parameters: int) -> int:
    """Deployed adapter parameters that `value` stands for.

    Accepts a count (`41472`, `40k`, `0.33M`), a share of the backbone's parameters (`1.5%`), or a number of
    rank-1 components (`144 ranks`). Ranks are converted at the mean cost of a component over `modules`, so that
    `36 ranks` on 36 modules is exactly one component each: a choice of ours, which makes every method's budget
    the same number of parameters.

    Raises:
        BadRequestError: `value` is not a positive budget in one of these forms.
    """
    text = str(value)[:100]
    match = _BUDGET.fullmatch(text)
    if isinstance(value, bool) or match is None:
        raise BadRequestError(
            f"budget {text!r} is not understood: write parameters (41472, 40k, 0.33M), a share of the backbone "
            "(1.5%) or components (144 ranks)"
        )
    number = float(match["number"].replace("_", "").replace(",", ""))
    unit = (match["unit"] or "").lower()
    if unit == "%":
        parameters = number / 100 * backbone_parameters
    elif unit.startswith("rank"):
        parameters = number * sum(m.component_cost for m in modules) / len(modules)
    else:
        parameters = number * _FACTOR[unit]
    if not 1 <= parameters < 2**63:
        raise BadRequestError(f"budget {text!r} is {parameters:,.0f} parameters: it must be at least 1")
    return math.floor(parameters + 1e-6)


def uniform_rank(budget: int, modules: Sequence[ModuleShape], costs: Mapping[str, int]) -> int:
    """Largest rank that every module can carry within `budget` parameters.

    Raises:
        BudgetTooSmallError: not even rank 1 fits.
    """
    per_rank = sum(costs[m.name] for m in modules)
    rank = budget // per_rank
    if rank < 1:
        raise BudgetTooSmallError(
            f"budget {budget:,} is below one component on each of {len(modules)} modules ({per_rank:,}): "
            "raise it or pass fewer target_modules"
        )
    return min(rank, min(m.max_rank for m in modules))


@dataclass
class Ledger:
    """The one place where components are charged to the budget."""

    budget: int
    spent: int = 0

    @property
    def remaining(self) -> int:
        """Parameters not yet charged."""
        return self.budget - self.spent

    def fits(self, cost: int) -> bool:
        """Whether `cost` more parameters stay within the budget."""
        return cost <= self.remaining

    def charge(self, cost: int) -> None:
        """Charges `cost` parameters.

        Raises:
            ValueError: the budget would be exceeded (a defect of the caller: ask `fits` first).
        """
        if not self.fits(cost):
            raise ValueError(f"charging {cost:,} exceeds the budget: {self.spent:,} of {self.budget:,} are spent")
        self.spent += cost


@dataclass(frozen=True)
class GrowthSchedule:
    """When capacity is released: every `interval` steps from `start` to `end`, a linear share of the budget.

    The paper (2605.10741, section on rank discovery) publishes neither interval nor warm-up; these are ours.
    """

    start: int
    end: int
    interval: int

    def due(self, step: int) -> bool:
        """Whether growth happens after `step` optimizer steps."""
        return self.start <= step <= self.end and (step - self.start) % self.interval == 0

    def last(self, step: int) -> bool:
        """Whether the growth after `step` steps is the final one."""
        return self.due(step) and step + self.interval > self.end

    def released(self, step: int, budget: int, initial: int) -> int:
        """Parameters that may be spent in all after the growth at `step`; the whole budget at the last one."""
        if self.last(step):
            return budget
        periods = (self.end - self.start) // self.interval + 1
        done = (step - self.start) // self.interval + 1
        return initial + (budget - initial) * done // periods


@dataclass(frozen=True)
class GrowthRequest:
    """A module that may still grow, as the growth decision sees it."""

    module: str
    score: float
    cost: int
    room: int
    """Components that the module may still receive: r_max minus its rank."""


@dataclass
class GrowthDecision:
    """Modules that receive one component each, in the order of their activation; a name may stand twice."""

    modules: list[str] = field(default_factory=list)


def decide_growth(
    requests: Iterable[GrowthRequest], ledger: Ledger, *, released: int, threshold: float, last: bool
) -> GrowthDecision:
    """Spends the released part of the budget on the modules whose reserve matters most, and charges the ledger.

    Modules with `score > threshold × mean score` take one component each, best first, ties to the earlier one.
    The last growth ignores the threshold and goes round until nothing fits. Deterministic: it depends on the
    order and values of `requests` and on the ledger alone.
    """
    queue = sorted(enumerate(r for r in requests if r.room > 0), key=lambda item: (-item[1].score, item[0]))
    ordered = [request for _, request in queue]
    decision = GrowthDecision()
    if not ordered:
        return decision
    bar = threshold * math.fsum(r.score for r in ordered) / len(ordered)
    limit = min(released, ledger.budget)
    given = dict.fromkeys((r.module for r in ordered), 0)
    while True:
        progress = False
        for request in ordered:
            eligible = last or request.score > bar
            if eligible and given[request.module] < request.room and ledger.spent + request.cost <= limit:
                ledger.charge(request.cost)
                given[request.module] += 1
                decision.modules.append(request.module)
                progress = True
        if not (last and progress):
            return decision
