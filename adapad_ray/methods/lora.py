"""Fixed-rank LoRA (2106.09685): all components of a module train together."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from adapad_ray.budget import BudgetTooSmallError, uniform_rank
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.base import Method, MethodConfig, Plan


class LoraConfig(MethodConfig):
    """Settings of `lora`."""

    rank: int | None = Field(default=None, ge=1)
    """Rank of every module; by default the largest that the budget allows."""
    allocation: Literal["uniform", "random"] = "uniform"
    """`random` gives components to modules drawn at random (by the cell's seed) until none fits: a control for rank
    discovery, and a LoRA that exists below one component per module."""


class Lora(Method[LoraConfig]):
    """W₀ + s · B A with the same rank on every module, B = 0 at the start."""

    name = "lora"
    summary = "fixed-rank LoRA: the same rank on every module, trained jointly"
    Config = LoraConfig
    structural = frozenset({"rank", "allocation"})

    def plan(self) -> Plan:
        modules, budget = self.setting.modules, self.setting.budget
        assert budget is not None
        costs = {m.name: m.component_cost for m in modules}
        if self.config.allocation == "random":
            ranks = self._random_ranks(costs, budget)
        elif self.config.rank is None:
            ranks = dict.fromkeys(costs, uniform_rank(budget, modules, costs))
        else:
            ranks = self._fixed_ranks(self.config.rank, costs, budget)
        parameters = sum(rank * costs[name] for name, rank in ranks.items())
        return Plan(parameters=parameters, peak_parameters=parameters, lanes=1, ranks=ranks)

    def scales(self) -> dict[str, float]:
        return self.budget_scales() if self.config.allocation == "random" else super().scales()

    def _fixed_ranks(self, rank: int, costs: dict[str, int], budget: int) -> dict[str, int]:
        narrow = min(self.setting.modules, key=lambda m: m.max_rank)
        if rank > narrow.max_rank:
            raise BadRequestError(f"rank {rank} is above the dimension {narrow.max_rank} of module {narrow.name}")
        needed = rank * sum(costs.values())
        if needed > budget:
            raise BudgetTooSmallError(f"budget {budget:,} is below rank {rank} on {len(costs)} modules ({needed:,})")
        return dict.fromkeys(costs, rank)

    def _random_ranks(self, costs: dict[str, int], budget: int) -> dict[str, int]:
        generator = torch.Generator().manual_seed(self.setting.seed)
        limits = {m.name: m.max_rank for m in self.setting.modules}
        ranks: dict[str, int] = {}
        remaining = budget
        while True:
            fitting = [n for n, cost in costs.items() if cost <= remaining and ranks.get(n, 0) < limits[n]]
            if not fitting:
                break
            drawn = fitting[int(torch.randint(len(fitting), (), generator=generator))]
            ranks[drawn] = ranks.get(drawn, 0) + 1
            remaining -= costs[drawn]
        if not ranks:
            raise BudgetTooSmallError(f"budget {budget:,} is below the smallest component ({min(costs.values()):,})")
        return {name: ranks[name] for name in costs if name in ranks}
