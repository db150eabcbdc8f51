"""ARD-LoRA-style adaptation (2506.18267): every attention head, or module, learns a rank of its own through one number.

A unit with the learnt α ≥ 0 has the rank max(1, round(r₀ α)); the loss has the penalty λ (mean |α| + β mean |α − α'|),
an ℓ1 term that favours small ranks and a total variation over time, with α' at the last decision, that steadies them.
Both come from the paper. It does not say how a gradient passes the rounding: here straight through, over a ramp (see
`adapters.gated`). Nor does it have a budget: here one τ, as small as can be, lowers all wishes r₀ α until they meet it.

It is no reproduction: what the paper leaves open is a field of `ArdConfig`, and the defaults are this project's own.
α does not outlive training. The ranks that it chose are deployed; it counts among the parameters in training only.
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
from adapad_ray.budget import BudgetTooSmallError
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.base import CellContext, Method, MethodConfig, Plan, RoundReport
from adapad_ray.results import GrowthEvent


class ArdConfig(MethodConfig):
    """Settings of `ard`. Not to be confused with α: `lora_alpha` is the numerator of the scale lora_alpha / r₀, which
    stays the same whatever rank a unit has."""

    unit: Literal["head", "module"] = "head"
    """What has a rank of its own: as in the paper every attention head, and modules without heads (MLP) as a whole; or
    every module. One component on every head costs far more than a LoRA rank: `module` reaches smaller budgets."""
    initial_rank: int | None = Field(default=None, ge=1)
    """r₀; by default the largest that the budget allows on all units. With less, units grow without others' loss."""
    alpha_max: float = Field(default=2.0, ge=1)
    """Largest α. The paper reports about 1.8 in its upper layers."""
    alpha_rate: float = Field(default=10.0, gt=0)
    """How many times faster than a weight α moves: with the weights' own learning rate it would hardly leave 1."""
    ramp: float = Field(default=2.0, ge=1)
    """Width in ranks of the slope through which α learns. From 2 on a unit's last open component speaks for the next
    one; with 1 a component that has never acted (b = 0) would have to, and nothing could grow."""
    sparsity: float = Field(default=1e-3, ge=0)
    """λ, weight of the whole penalty. Small, because the budget limits ranks already: on MiniLM-L6 with rank 3 the task
    pulled at an α with 1e-4 to 1e-3, the ℓ1 term pulls with λ / units."""
    stability: float = Field(default=1.0, ge=0)
    """β, weight of the total variation within the penalty."""
    rank_interval: int = Field(default=10, ge=1)
    """Steps between two decisions about the ranks."""


class Ard(Method[ArdConfig]):
    """Straight-through ranks under a hard budget; exported as exact LoRA."""

    name = "ard"
    summary = "ARD-LoRA-style: each attention head (or module) learns its rank, under a hard budget"
    Config = ArdConfig
    structural = frozenset({"unit", "initial_rank", "alpha_max"})
    parallel = None

    def __init__(self, config: ArdConfig, context: CellContext) -> None:
        super().__init__(config, context)
        assert context.budget is not None
        self.budget = context.budget
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
        narrow, layout = min(layouts.items(), key=lambda item: min(item[1].reads, item[1].writes))
        width = min(layout.reads, layout.writes)
        if rank > width:
            where = f"a head of {narrow.name}" if layout.units > 1 else narrow.name
            raise BadRequestError(f"initial_rank {rank} is above the dimension {width} of {where}")
        needed = rank * self._one_each()
        if needed > self.budget:
            units = sum(x.units for x in layouts.values())
            hint = ", or set unit: module" if units > len(modules) else ""
            raise BudgetTooSmallError(
                f"budget {self.budget:,} is below rank {rank} on each of {units} units of {len(modules)} modules "
                f"({needed:,}): raise it or pass fewer target_modules{hint}"
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
        """Sets the ranks to what the units wish, within the budget; not after the last step: none follows."""
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
        wishes: list[Wish] = []
        for name, block in self._blocks():
            cost = self.family.cost(self.adapted.layers[name].shape)
            ranks = (self.family.initial_rank * block.alpha).tolist()
            wishes += [Wish(rank, cost, block.layout.most) for rank in ranks]
        ranks, shift = capped_ranks(wishes, self.budget)
        position = 0
        for _, block in self._blocks():
            block.set_ranks(ranks[position : position + block.layout.units], shift)
            position += block.layout.units


@dataclass(frozen=True)
class Wish:
    """The rank that a unit wishes, as a real number; what a component of it costs; how many it can have."""

    rank: float
    cost: int
    most: int


def capped_ranks(wishes: Sequence[Wish], budget: int) -> tuple[list[int], float]:
    """`max(1, round(wish − τ))` for every unit, halves rounded up, and τ ≥ 0.

    τ is 0 if that meets the budget, else how far the first component that finds no room is above its threshold. Beyond
    it only components that still fit are given, largest excess first and ties to the earlier unit, none out of turn.
    """
    ranks = [1] * len(wishes)
    spent = sum(wish.cost for wish in wishes)
    excess = [
        (wish.rank - (j - 0.5), -unit)
        for unit, wish in enumerate(wishes)
        for j in range(2, min(wish.most, math.floor(wish.rank + 0.5)) + 1)
    ]
    full: set[int] = set()
    shift = 0.0
    for over, unit in sorted(excess, reverse=True):
        unit = -unit
        if unit in full:
            continue
        if spent + wishes[unit].cost > budget:
            full.add(unit)
            shift = max(shift, over)
            continue
        spent += wishes[unit].cost
        ranks[unit] += 1
    return ranks, shift
