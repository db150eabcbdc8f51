"""LoRA (2106.09685): all components of a module train together, with ranks that are fixed beforehand."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator, model_validator

from adapad_ray.budget import BudgetTooSmallError, uniform_rank
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.base import Method, MethodConfig, Plan
from adapad_ray.safe_regex import Matcher


class LoraConfig(MethodConfig):
    """Settings of `lora`. The form is published; a rank that follows from the budget and `allocation` are ours."""

    rank: int | None = Field(default=None, ge=1)
    """Rank of every module that `rank_pattern` does not name; by default the largest that the budget allows."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Regular expression → rank of the modules whose whole path, or a dotted suffix of it, it matches; the first that
    does decides. Names and meaning are PEFT's: `{"layer.0.*query": 8, value: 4}`."""
    rslora: bool = False
    """Scale `lora_alpha / √rank` (2312.03732) instead of `lora_alpha / rank`."""
    allocation: Literal["uniform", "random"] = "uniform"
    """`random` gives components to modules drawn at random (by the cell's seed) until none fits: a control for rank
    discovery, and a LoRA that exists below one component per module."""

    @field_validator("rank_pattern")
    @classmethod
    def _valid_patterns(cls, patterns: dict[str, int]) -> dict[str, int]:
        matcher = Matcher()
        for pattern in patterns:
            matcher.compile(pattern, "it")
        return patterns

    @model_validator(mode="after")
    def _consistent(self) -> LoraConfig:
        if self.allocation == "random" and (self.rank is not None or self.rank_pattern):
            raise ValueError("allocation random draws the ranks: remove rank and rank_pattern")
        return self


class Lora(Method[LoraConfig]):
    """W₀ + s · B A with ranks known beforehand, the same on every module unless asked otherwise; B = 0 at the start."""

    name = "lora"
    summary = "fixed-rank LoRA: the same rank on every module (or as `rank_pattern` says), trained jointly"
    Config = LoraConfig
    structural = frozenset({"rank", "rank_pattern", "allocation"})

    def plan(self) -> Plan:
        modules, budget = self.context.modules, self.context.budget
        assert budget is not None
        costs = {m.name: m.component_cost for m in modules}
        ranks = self._random_ranks(costs, budget) if self.config.allocation == "random" else self._ranks(costs, budget)
        parameters = sum(rank * costs[name] for name, rank in ranks.items())
        return Plan(parameters=parameters, peak_parameters=parameters, lanes=1, ranks=ranks)

    def scales(self) -> dict[str, float]:
        scales = self.budget_scales() if self.config.allocation == "random" else super().scales()
        if not self.config.rslora:
            return scales
        alpha = self.config.lora_alpha  # of which α/r is at hand: α/√r = √(α · α/r)
        return {name: math.sqrt(alpha * scale) for name, scale in scales.items()}

    def _ranks(self, costs: dict[str, int], budget: int) -> dict[str, int]:
        """The ranks that the configuration names; the modules that it does not name share what is left, all alike."""
        ranks = self._named_ranks()
        if not ranks and self.config.rank is None:
            return dict.fromkeys(costs, uniform_rank(budget, self.context.modules, costs))
        asked = [f"rank_pattern on {len(ranks)} modules"] if ranks else []
        others = [m for m in self.context.modules if m.name not in ranks]
        if others:
            rest = budget - sum(rank * costs[name] for name, rank in ranks.items())
            fitting = min(rest // sum(costs[m.name] for m in others), min(m.max_rank for m in others))
            rank = self.config.rank or max(1, fitting)
            ranks |= {m.name: rank for m in others}
            asked.append(f"rank {rank} on {len(others)} modules")
        for module in self.context.modules:
            if ranks[module.name] > module.max_rank:
                raise BadRequestError(
                    f"rank {ranks[module.name]} is above the dimension {module.max_rank} of module {module.name}"
                )
        needed = sum(rank * costs[name] for name, rank in ranks.items())
        if needed > budget:
            raise BudgetTooSmallError(
                f"budget {budget:,} is below {' and '.join(asked)} ({needed:,}): raise it, lower the ranks or pass "
                "fewer target_modules"
            )
        return {name: ranks[name] for name in costs}

    def _named_ranks(self) -> dict[str, int]:
        """Ranks of the modules that `rank_pattern` names."""
        ranks: dict[str, int] = {}
        idle = list(self.config.rank_pattern)
        matcher = Matcher()
        patterns = {p: rf"(.*\.)?({p})" for p in self.config.rank_pattern}
        for module in self.context.modules:
            fitting = (p for p, whole in patterns.items() if matcher.fullmatch(whole, module.name, "rank_pattern"))
            pattern = next(fitting, None)
            if pattern is not None:
                ranks[module.name] = self.config.rank_pattern[pattern]
                idle = [p for p in idle if p != pattern]
        if idle:
            raise BadRequestError(f"rank_pattern {idle[0]!r} decides about none of the adapted modules: remove it")
        return ranks

    def _random_ranks(self, costs: dict[str, int], budget: int) -> dict[str, int]:
        generator = torch.Generator().manual_seed(self.context.seed)
        limits = {m.name: m.max_rank for m in self.context.modules}
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
