"""Parameter budgets: the cost of a component, the ledger that is charged, and which modules grow next.

A component is one rank-1 update of one module. Costs are exact integers from shapes; nothing here needs torch.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from adapad_ray.errors import BadRequestError
from adapad_ray.wording import counted

_BUDGET = re.compile(
    r"\s*(?:(?P<grouped>\d{1,3}(?:,\d{3})+)|"  # a comma is no decimal point
    r"(?P<number>\d[\d_]*\.?\d*(?:e\+?\d{1,2})?)\s*(?P<unit>k|m|b|%|ranks?)?)\s*",
    re.IGNORECASE,
)
_FACTOR = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}


@dataclass(frozen=True)
class ModuleShape:
    """A linear layer of the backbone that can get an adapter."""

    name: str
    """Full path inside the model, as in `bert.encoder.layer.0.attention.self.query`."""
    in_features: int
    out_features: int
    heads: int = 1
    """Number of attention heads; each owns a slice of the output features, or of the input features if `heads_read`."""
    heads_read: bool = False
    """Whether the heads' slices are of the input, as in the output projection of attention."""

    @property
    def component_cost(self) -> int:
        """Parameters of one plain rank-1 component: `in_features + out_features`."""
        return self.in_features + self.out_features

    @property
    def max_rank(self) -> int:
        """The largest useful rank: `min(in_features, out_features)`."""
        return min(self.in_features, self.out_features)


class BudgetTooSmallError(BadRequestError):
    """The budget is below the smallest adapter of the method. The sweep records a gap, not a failure."""


class BudgetText(NamedTuple):
    """A budget as it is written, before the model is known."""

    number: float
    unit: Literal["parameters", "%", "ranks"]


def read_budget(value: int | float | str) -> BudgetText:
    """Reads a budget as `parse_budget` does, without a model: `10k` and `10000` are the same.

    Raises:
        BadRequestError: `value` is not a budget.
    """
    text = str(value)[:100]
    match = _BUDGET.fullmatch(text)
    if isinstance(value, bool) or match is None:
        raise BadRequestError(
            f"budget {text!r} is not understood: write parameters (41472, 40k, 0.33M), a share of the backbone "
            "(1.5%) or components (144 ranks); several budgets are a list, [10k, 40k]"
        )
    number = float((match["grouped"] or match["number"]).replace("_", "").replace(",", ""))
    unit = (match["unit"] or "").lower()
    if unit == "%":
        return BudgetText(number, "%")
    if unit.startswith("rank"):
        return BudgetText(number, "ranks")
    parameters = round(number * _FACTOR[unit], 6)
    if unit == "" and parameters >= 1 and not parameters.is_integer():
        raise BadRequestError(f"budget {text!r} is not a whole number of parameters: write {math.floor(parameters):,}")
    return BudgetText(parameters, "parameters")


@dataclass(frozen=True)
class BudgetUnits:
    """What the units of a budget are worth for one model and its target modules."""

    backbone_parameters: int
    """100 %."""
    rank_parameters: float
    """1 rank: the mean cost of a rank-1 component over the modules."""

    @classmethod
    def of(cls, modules: Sequence[ModuleShape], backbone_parameters: int) -> BudgetUnits:
        """The units for these target modules."""
        return cls(backbone_parameters, sum(m.component_cost for m in modules) / len(modules))

    def parse(self, value: int | float | str) -> int:
        """Converts a budget to deployed adapter parameters: see `parse_budget`."""
        number, unit = read_budget(value)
        if unit == "%":
            parameters = number / 100 * self.backbone_parameters
        elif unit == "ranks":
            parameters = number * self.rank_parameters
        else:
            parameters = number
        if not 1 <= parameters < 2**63:
            bound = "at least 1" if parameters < 1 else "less than 2**63"
            raise BadRequestError(f"budget {str(value)[:100]!r} is {parameters:,.0f} parameters: it must be {bound}")
        return math.floor(parameters + 1e-6)


def parse_budget(value: int | float | str, *, modules: Sequence[ModuleShape], backbone_parameters: int) -> int:
    """Converts a budget to deployed adapter parameters.

    Accepts a count (`41472`, `40k`, `0.33M`), a share of the backbone's parameters (`1.5%`), or a number of
    rank-1 components (`144 ranks`). A rank costs the mean of a component's cost over `modules`, so `36 ranks` on 36
    modules is exactly one component per module. This is the project's choice; it gives all methods the same number of
    parameters.

    Raises:
        BadRequestError: `value` is not a budget of at least one parameter in one of these forms.
    """
    return BudgetUnits.of(modules, backbone_parameters).parse(value)


def check_fits_one(budget: int, costs: Iterable[int]) -> None:
    """Checks that a budget holds at least the smallest of the components with these costs.

    Raises:
        BudgetTooSmallError: it does not.
    """
    smallest = min(costs)
    if budget < smallest:
        raise BudgetTooSmallError(f"budget {budget:,} is below the smallest component ({smallest:,})")


def remedies(setting: str | None = None) -> str:
    """The end of a message about a budget that is too small.

    Args:
        setting: of the method, with which the budget would be large enough.
    """
    if setting is None:
        return "raise it or pass fewer target_modules"
    return f"raise it, pass fewer target_modules or set {setting}"


def uniform_rank(
    budget: int, modules: Sequence[ModuleShape], costs: Mapping[str, int], *, else_set: str | None = None
) -> int:
    """The largest rank that all modules can have within `budget` parameters.

    Args:
        else_set: a setting with which a budget for one module is large enough, for the message.

    Raises:
        BudgetTooSmallError: rank 1 does not fit.
    """
    per_rank = sum(costs[m.name] for m in modules)
    rank = budget // per_rank
    if rank < 1:
        setting = else_set if budget >= min(costs[m.name] for m in modules) else None
        raise BudgetTooSmallError(
            f"budget {budget:,} is below one component on each of {counted(len(modules), 'module')} ({per_rank:,}): "
            f"{remedies(setting)}"
        )
    return min(rank, min(m.max_rank for m in modules))


@dataclass
class Ledger:
    """Counts the parameters that are charged to the budget."""

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
            ValueError: the budget would be exceeded (the caller must check `fits` first).
        """
        if not self.fits(cost):
            raise ValueError(f"charging {cost:,} exceeds the budget: {self.spent:,} of {self.budget:,} are spent")
        self.spent += cost


@dataclass(frozen=True)
class GrowthSchedule:
    """Releases the budget in equal parts every `interval` optimizer steps from `start` to `end`.

    Not published (2605.10741, section on rank discovery); interval and warm-up are this project's choice.
    """

    start: int
    end: int
    interval: int

    def due(self, step: int) -> bool:
        """Whether growth happens after `step` optimizer steps."""
        return self.start <= step <= self.end and (step - self.start) % self.interval == 0

    def last(self, step: int) -> bool:
        """Whether the growth after `step` steps is the last one."""
        return self.due(step) and step + self.interval > self.end

    def released(self, step: int, budget: int, initial: int) -> int:
        """Total parameters that may be spent after the growth at `step`; the whole budget at the last growth."""
        if self.last(step):
            return budget
        periods = (self.end - self.start) // self.interval + 1
        done = (step - self.start) // self.interval + 1
        return initial + (budget - initial) * done // periods


@dataclass(frozen=True)
class GrowthRequest:
    """A module that may grow."""

    module: str
    score: float
    cost: int
    room: int
    """Components that the module may still get: r_max minus its rank."""


@dataclass
class GrowthDecision:
    """Modules that get a component, in the order of activation; a module with two new components appears twice."""

    modules: list[str] = field(default_factory=list)


def decide_growth(
    requests: Iterable[GrowthRequest], ledger: Ledger, *, released: int, threshold: float, last: bool
) -> GrowthDecision:
    """Gives new components to the modules with the highest scores, and charges the ledger.

    Modules with `score > threshold × mean score` get one component each, the highest score first; of equal scores the
    earlier request is first. The last growth ignores the threshold and repeats until no component fits. The result
    depends only on the order and values of `requests` and on the ledger.

    Args:
        released: total parameters that may be spent, including those already spent.
        last: whether this is the last growth.
    """
    queue = sorted(enumerate(r for r in requests if r.room > 0), key=lambda item: (-item[1].score, item[0]))
    ordered = [request for _, request in queue]
    decision = GrowthDecision()
    if not ordered:
        return decision
    required = threshold * math.fsum(r.score for r in ordered) / len(ordered)
    limit = min(released, ledger.budget)
    granted = dict.fromkeys((r.module for r in ordered), 0)
    while True:
        granted_any = False
        for request in ordered:
            eligible = last or request.score > required
            if eligible and granted[request.module] < request.room and ledger.spent + request.cost <= limit:
                ledger.charge(request.cost)
                granted[request.module] += 1
                decision.modules.append(request.module)
                granted_any = True
        if not (last and granted_any):
            return decision


@dataclass(frozen=True)
class ComponentRequest:
    """A component that a module may get."""

    module: str
    score: float
    """Per parameter."""
    cost: int


def decide_components(requests: Iterable[ComponentRequest], ledger: Ledger, *, released: int) -> list[str]:
    """Chooses the components with the highest scores that fit, one after another, and charges the ledger.

    Of equal scores the earlier request is first. Returns the modules in the order of the scores, each as often as it
    gets a component.

    Args:
        released: total parameters that may be spent, including those already spent.
    """
    limit, chosen = min(released, ledger.budget), []
    for request in sorted(requests, key=lambda request: -request.score):
        if ledger.spent + request.cost <= limit:
            ledger.charge(request.cost)
            chosen.append(request.module)
    return chosen


LAST_COMPONENTS, CANDIDATES = 32, 200
"""Of `most_valuable`: parameters for so many components are spent on the best set of so many candidates."""


def most_valuable(requests: Iterable[ComponentRequest], ledger: Ledger, *, released: int) -> list[str]:
    """Chooses the components that are worth most together among those that fit, and charges the ledger.

    A component is worth its score times its cost. Taking the highest scores one after another can leave parameters that
    no further component fits into, so that is done only while there is room for many; the last ones solve a knapsack
    problem. Of sets that are worth the same, one that spends more is chosen. Without any score the earlier requests are
    first. Returns the modules in the order of the scores, each as often as it gets a component.

    Args:
        released: total parameters that may be spent, including those already spent.
    """
    requests = sorted(requests, key=lambda request: -request.score)
    if not any(request.score for request in requests):
        return decide_components(requests, ledger, released=released)
    limit, chosen, waiting = min(released, ledger.budget), [], deque(requests)
    last = LAST_COMPONENTS * max((request.cost for request in waiting), default=0)
    while waiting and limit - ledger.spent > last:
        chosen.append(waiting.popleft())
        ledger.charge(chosen[-1].cost)
    left = limit - ledger.spent
    together = _best_set([request for request in waiting if request.cost <= left][:CANDIDATES], left)
    for request in together:
        ledger.charge(request.cost)
    return [request.module for request in (*chosen, *together)]


def _best_set(requests: Sequence[ComponentRequest], left: int) -> list[ComponentRequest]:
    """Those that are worth most together and cost at most `left`."""
    if not requests:
        return []
    import numpy as np  # here, because every command reads budgets, and few decide on components
    from scipy.optimize import Bounds, LinearConstraint, milp

    costs = np.array([request.cost for request in requests])
    worth = np.array([request.score for request in requests]) * costs
    found = milp(
        -(worth / (worth.max() or 1.0) + 1e-4 * costs / left),  # above the solver's tolerance of 1e-7
        constraints=LinearConstraint(costs[None], ub=left),
        bounds=Bounds(0, 1),
        integrality=np.ones(len(costs)),
        options={"mip_rel_gap": 1e-9},
    )
    return [request for request, taken in zip(requests, found.x, strict=True) if taken > 0.5]
