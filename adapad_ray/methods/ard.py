"""ARD-LoRA-style adaptation (2506.18267): each attention head or module learns its own rank through one number.

A unit (head or module) with the learnt α ≥ 0 has the rank max(1, round(r₀ α)). The loss has the penalty
λ (mean |α| + β mean |α − α'|): an ℓ1 term that favours small ranks, and a total variation over time that steadies them,
with α' from the last decision. Rank and penalty come from the paper.

This is no reproduction. The paper does not publish how a gradient passes the rounding; here it passes straight
through, over a ramp (see `adapters.gated`). The paper has no budget; here the smallest possible τ lowers all requested
ranks r₀ α until they fit. Settings that the paper leaves open are fields of `ArdConfig`; their defaults are this
project's choices. α counts as a parameter in training only: the ranks are deployed, α is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from adapad_ray.adapters.gated import Gated, GatedBlock
from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.budget import BudgetTooSmallError, remedies
from adapad_ray.methods.base import BudgetedMethod, MethodConfig, check_ranks
from adapad_ray.methods.plan import CellContext, Plan, RoundReport
from adapad_ray.results import GrowthEvent
from adapad_ray.wording import counted


class ArdConfig(MethodConfig):
    """Settings of `ard`. `lora_alpha` is not α: it is the numerator of the scale lora_alpha / r₀, which does not change
    with the rank of a unit."""

    unit: Literal["head", "module"] = "head"
    """What has its own rank. `head`, as in the paper: every attention head, and every module without heads (MLP).
    `module`: every module. One component on every head costs far more than a LoRA rank, so `module` reaches smaller
    budgets."""
    initial_rank: int | None = Field(default=None, ge=1)
    """r₀; by default the largest that the budget allows on all units. With a smaller one, units can grow while no other
    unit shrinks."""
    alpha_max: float = Field(default=2.0, ge=1)
    """Largest α. The paper reports about 1.8 in its upper layers."""
    alpha_rate: float = Field(default=10.0, gt=0)
    """Learning rate of α relative to that of the weights. At 1, α would hardly leave its initial value."""
    ramp: float = Field(default=2.0, ge=1)
    """Width in ranks of the slope through which α learns. From 2 on, the gradient that requests a further component
    comes from a unit's last open one. With 1 it would have to come from a component that has never acted (b = 0), and
    nothing could grow."""
    sparsity: float = Field(default=1e-3, ge=0)
    """λ, weight of the whole penalty. It is small because the budget limits ranks already: on MiniLM-L6 with rank 3 the
    gradient of the task at an α was 1e-4 to 1e-3, and that of the ℓ1 term is λ / units."""
    stability: float = Field(default=1.0, ge=0)
    """β, weight of the total variation within the penalty."""
    rank_interval: int = Field(default=10, ge=1)
    """Steps between two decisions about the ranks."""


class Ard(BudgetedMethod[ArdConfig]):
    """Straight-through ranks under a hard budget; exported as exact LoRA."""

    name = "ard"
    summary = "ARD-LoRA-style: each attention head (or module) learns its rank, under a hard budget"
    Config = ArdConfig
    adapted: AdaptedModel
    structural = frozenset({"unit", "initial_rank", "alpha_max"})
    parallel = None

    def __init__(self, config: ArdConfig, context: CellContext) -> None:
        super().__init__(config, context)
        self.local_steps = min(config.rank_interval, context.total_steps)
        self.family: Gated = self._family(1)
        self.family = self._family(config.initial_rank or self._largest_initial_rank())

    def _family(self, initial_rank: int) -> Gated:
        return Gated(
            per_head=self.config.unit == "head",
            initial_rank=initial_rank,
            alpha_max=self.config.alpha_max,
            rate=self.config.alpha_rate,
            ramp=self.config.ramp,
        )

    def _one_each(self) -> int:
        """Parameters of one component on every unit."""
        return sum(self.family.layout(m).units * self.family.cost(m) for m in self.context.modules)

    def _largest_initial_rank(self) -> int:
        layouts = [self.family.layout(m) for m in self.context.modules]
        return max(1, min(self.budget // self._one_each(), *(min(x.reads, x.writes) for x in layouts)))

    def plan(self) -> Plan:
        modules, rank = self.context.modules, self.family.initial_rank
        layouts = {m: self.family.layout(m) for m in modules}
        limits = {
            f"a head of {m.name}" if layout.units > 1 else m.name: min(layout.reads, layout.writes)
            for m, layout in layouts.items()
        }
        check_ranks("initial_rank", dict.fromkeys(limits, rank), limits)
        needed = rank * self._one_each()
        if needed > self.budget:
            units = sum(x.units for x in layouts.values())
            whole = rank * sum(m.component_cost for m in modules)
            setting = "unit: module" if units > len(modules) and whole <= self.budget else None
            raise BudgetTooSmallError(
                f"budget {self.budget:,} is below rank {rank} on each of {counted(units, 'unit')} of "
                f"{counted(len(modules), 'module')} "
                f"({needed:,}): {remedies(setting)}"
            )
        most = {m: layouts[m].units * layouts[m].most for m in modules}
        return Plan(
            parameters=min(self.budget, sum(most[m] * self.family.cost(m) for m in modules)),
            peak_parameters=sum(most[m] * self.family.cost(m) + layouts[m].units for m in modules),
            lanes=1,
            ranks=None,
            acting_parameters=sum(most[m] * m.component_cost for m in modules),
        )

    def scales(self) -> dict[str, float]:
        return {m.name: self.config.lora_alpha / self.family.initial_rank for m in self.context.modules}

    def build(self, generator: torch.Generator) -> None:
        for shape in self.context.modules:
            layout = self.family.layout(shape)
            self.adapted.add_block(shape.name, layout.units * layout.most, generator)
        self.adapted.add_head(1)
        self._decide()

    def _blocks(self) -> Iterator[tuple[str, GatedBlock]]:
        for name, layer in self.adapted.layers.items():
            yield name, cast(GatedBlock, layer.active()[0])

    def penalty(self, lane: Lane) -> Tensor:
        alpha = torch.cat([block.alpha for _, block in self._blocks()])
        before = torch.cat([block.before for _, block in self._blocks()])
        variation = (alpha - before).abs().mean()
        return self.config.sparsity * (alpha.abs().mean() + self.config.stability * variation)

    def end_round(self, steps_done: int, generator: torch.Generator) -> RoundReport:
        """Sets the ranks that the units request, within the budget. Nothing changes after the last step."""
        if steps_done == self.context.total_steps:
            return RoundReport()
        before = self.adapted.ranks
        for _, block in self._blocks():
            block.clip_alpha(self.config.alpha_max)
        self._decide()
        spent = self.adapted.active_parameters()
        after = self.adapted.ranks
        changed = [
            GrowthEvent(step=steps_done, module=name, rank=rank, spent=spent)
            for name, rank in after.items()
            if rank != before[name]
        ]
        return RoundReport(grown=changed)

    def _decide(self) -> None:
        blocks = dict(self._blocks())
        requested = iter(torch.cat([self.family.initial_rank * block.alpha for block in blocks.values()]).tolist())
        requests = [
            RankRequest(next(requested), self.family.cost(self.adapted.layers[name].shape), block.layout.most)
            for name, block in blocks.items()
            for _ in range(block.layout.units)
        ]
        ranks, shift = capped_ranks(requests, self.budget)
        decided = iter(ranks)
        for block in blocks.values():
            block.set_ranks([next(decided) for _ in range(block.layout.units)], shift)


@dataclass(frozen=True)
class RankRequest:
    """The rank that a unit requests through its α."""

    rank: float
    cost: int
    """Parameters of one component."""
    most: int
    """Largest possible rank."""


def capped_ranks(requests: Sequence[RankRequest], budget: int) -> tuple[list[int], float]:
    """Ranks `max(1, round(request − τ))` of all units, halves rounded up, and τ ≥ 0.

    τ is 0 if the requests fit the budget. Otherwise it is the excess over its threshold of the first component that
    does not fit. After that one, further components are given only where they fit: largest excess first, ties to the
    earlier unit, and none to a unit whose previous component did not fit.
    """
    ranks = [1] * len(requests)
    spent = sum(request.cost for request in requests)
    excess = [
        (request.rank - (j - 0.5), -unit)
        for unit, request in enumerate(requests)
        for j in range(2, min(request.most, math.floor(request.rank + 0.5)) + 1)
    ]
    full: set[int] = set()
    shift = 0.0
    for over, unit in sorted(excess, reverse=True):
        unit = -unit
        if unit in full:
            continue
        if spent + requests[unit].cost > budget:
            full.add(unit)
            shift = max(shift, over)
            continue
        spent += requests[unit].cost
        ranks[unit] += 1
    return ranks, shift
