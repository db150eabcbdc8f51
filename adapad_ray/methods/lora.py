"""LoRA (2106.09685): all components of a module train together, with ranks fixed before training."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field, field_validator, model_validator

from adapad_ray.budget import BudgetTooSmallError, check_fits_one, uniform_rank
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.base import BudgetedMethod, MethodConfig
from adapad_ray.methods.plan import Plan
from adapad_ray.safe_regex import Matcher
from adapad_ray.wording import counted


class LoraConfig(MethodConfig):
    """Settings of `lora`. The form is published; deriving the rank from the budget and `allocation` are this project's
    choices."""

    rank: int | None = Field(default=None, ge=1)
    """Rank of every module that `rank_pattern` does not match; by default the largest that the budget allows."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Regular expression → rank of the modules whose whole path, or a dotted suffix of it, it matches; the first match
    applies. Name and meaning are PEFT's: `{"layer.0.*query": 8, value: 4}`."""
    rslora: bool = False
    """Scale `lora_alpha / √rank` (2312.03732) instead of `lora_alpha / rank`."""
    allocation: Literal["uniform", "random"] = "uniform"
    """`random` gives components to modules drawn at random (by the cell's seed) until none fits: a control for rank
    discovery, and a LoRA for budgets below one component per module."""

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


class Lora(BudgetedMethod[LoraConfig]):
    """W₀ + s · B A with ranks fixed before training, by default the same on every module; B = 0 at the start."""

    name = "lora"
    summary = "fixed-rank LoRA: the same rank on every module (or as in `rank_pattern`), trained jointly"
    shares_passes = True
    Config = LoraConfig
    structural = frozenset({"rank", "rank_pattern", "allocation"})

    def plan(self) -> Plan:
        ranks = self._random_ranks() if self.config.allocation == "random" else self._ranks()
        parameters = sum(rank * self.costs[name] for name, rank in ranks.items())
        return Plan(parameters=parameters, peak_parameters=parameters, lanes=1, ranks=ranks)

    def scales(self) -> dict[str, float]:
        scales = self.budget_scales() if self.config.allocation == "random" else super().scales()
        if not self.config.rslora:
            return scales
        alpha = self.config.lora_alpha  # each scale is α/r: α/√r = √(α · α/r)
        return {name: math.sqrt(alpha * scale) for name, scale in scales.items()}

    def _ranks(self) -> dict[str, int]:
        """Ranks by the settings; modules without one share the rest of the budget at one common rank."""
        ranks, budget, costs = self._ranks_by_pattern(), self.budget, self.costs
        if not ranks and self.config.rank is None:
            rank = uniform_rank(budget, self.context.modules, costs, else_set="allocation: random")
            return dict.fromkeys(costs, rank)
        requested = [f"rank_pattern on {counted(len(ranks), 'module')}"] if ranks else []
        others = [m for m in self.context.modules if m.name not in ranks]
        if others:
            rest = budget - sum(rank * costs[name] for name, rank in ranks.items())
            fitting = min(rest // sum(costs[m.name] for m in others), min(m.max_rank for m in others))
            rank = self.config.rank or max(1, fitting)
            ranks |= {m.name: rank for m in others}
            requested.append(f"rank {rank} on {counted(len(others), 'module')}")
        ranks = {name: ranks[name] for name in costs}
        self.check_rank("rank", ranks)
        needed = sum(rank * costs[name] for name, rank in ranks.items())
        if needed > budget:
            raise BudgetTooSmallError(
                f"budget {budget:,} is below {' and '.join(requested)} ({needed:,}): raise it, lower the ranks or pass "
                "fewer target_modules"
            )
        return ranks

    def _ranks_by_pattern(self) -> dict[str, int]:
        """Ranks of the modules that `rank_pattern` matches."""
        ranks: dict[str, int] = {}
        unused = list(self.config.rank_pattern)
        matcher = Matcher()
        patterns = {p: rf"(.*\.)?({p})" for p in self.config.rank_pattern}
        for module in self.context.modules:
            matching = (p for p, whole in patterns.items() if matcher.fullmatch(whole, module.name, "rank_pattern"))
            pattern = next(matching, None)
            if pattern is not None:
                ranks[module.name] = self.config.rank_pattern[pattern]
                unused = [p for p in unused if p != pattern]
        if unused:
            raise BadRequestError(f"rank_pattern {unused[0]!r} applies to none of the adapted modules: remove it")
        return ranks

    def _random_ranks(self) -> dict[str, int]:
        check_fits_one(self.budget, self.costs.values())
        generator = torch.Generator().manual_seed(self.context.seed)
        limits = {m.name: m.max_rank for m in self.context.modules}
        ranks: dict[str, int] = {}
        remaining = self.budget
        while True:
            fitting = [n for n, cost in self.costs.items() if cost <= remaining and ranks.get(n, 0) < limits[n]]
            if not fitting:
                break
            drawn = fitting[int(torch.randint(len(fitting), (), generator=generator))]
            ranks[drawn] = ranks.get(drawn, 0) + 1
            remaining -= self.costs[drawn]
        return {name: ranks[name] for name in self.costs if name in ranks}
