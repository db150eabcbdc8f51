"""DyLoRA (2210.07558): nested ranks by sampling, so that one run yields an adapter of every rank.

Each step draws a rank b and trains the first b components of every module, which sorts them by importance. It is the
cheap baseline of a curve: one pass per step, and every prefix is deployable.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from pydantic import Field

from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.budget import uniform_rank
from adapad_ray.methods.base import BudgetedMethod, MethodConfig
from adapad_ray.methods.plan import Deployable, Plan


class DyloraConfig(MethodConfig):
    """Settings of `dylora`. The paper publishes both kinds of update and of drawing; the defaults are this
    project's choice."""

    update: Literal["prefix", "single"] = "prefix"
    """Which components learn in a step that has drawn rank b: the first b, or number b alone, with the others before it
    constant (the authors' `frozen`)."""
    distribution: Literal["uniform", "geometric"] = "uniform"
    """How b is drawn from 1 … r; `geometric` prefers small ranks, P(b) ∝ (1 − p)ᵇ."""
    geometric_p: float = Field(default=0.15, gt=0, lt=1)
    """p of the geometric distribution. The default is not published; this project's choice."""


class Dylora(BudgetedMethod[DyloraConfig]):
    """W₀ + (lora_alpha / b) Σ_{i ≤ b} b_i a_iᵀ with b drawn in every step, the same on all modules.

    r is the largest rank that the budget allows on every module. Not published, this project's choice: one head learns
    in every step and serves all prefixes, and a component's optimizer state does not change in steps that do not train
    it.
    """

    name = "dylora"
    summary = "nested LoRA: each step trains a randomly drawn prefix of the ranks, and every prefix is deployable"
    shares_passes = True
    Config = DyloraConfig
    adapted: AdaptedModel

    @cached_property
    def rank(self) -> int:
        """r, components of every module."""
        return uniform_rank(self.budget, self.context.modules, self.costs)

    @cached_property
    def drawn(self) -> list[int]:
        """The rank b of every step. All are drawn from the seed at once, so every worker and every resumed attempt has
        the same ones."""
        ranks = torch.arange(1, self.rank + 1, dtype=torch.float64)
        geometric = self.config.distribution == "geometric"
        weights = (1 - self.config.geometric_p) ** ranks if geometric else torch.ones_like(ranks)
        generator = torch.Generator().manual_seed(self.context.seed)
        draws = torch.multinomial(weights, self.context.total_steps, replacement=True, generator=generator)
        return [int(i) + 1 for i in draws]

    def plan(self) -> Plan:
        parameters, ranks = self.rank * sum(self.costs.values()), dict.fromkeys(self.costs, self.rank)
        return Plan(parameters=parameters, peak_parameters=parameters, lanes=1, ranks=ranks)

    def scales(self) -> dict[str, float]:
        """`lora_alpha`; each lane divides it by its rank."""
        return dict.fromkeys(self.costs, self.config.lora_alpha)

    def build(self, generator: torch.Generator) -> None:
        for module in self.adapted.layers:
            for _ in range(self.rank):
                self.adapted.add_block(module, 1, generator)
        self.adapted.add_head(1)

    def lanes(self, step: int) -> Sequence[Lane]:
        b = self.drawn[step]
        if self.config.update == "single":
            return (Lane(index=1, frozen=b - 1, live=(b,), scale=1 / b),)
        return (Lane(index=1, frozen=0, live=tuple(range(1, b + 1)), scale=1 / b),)

    def published(self, steps_done: int) -> Sequence[int]:
        """With `single`, the component that has just learnt: later steps read it as a constant."""
        return (self.drawn[steps_done - 1],) if self.config.update == "single" else ()

    def whole(self) -> Lane:
        return Lane(index=1, frozen=0, live=tuple(range(1, self.rank + 1)), scale=1 / self.rank)

    def deployables(self) -> list[Deployable]:
        def lane(b: int) -> Lane:
            return Lane(index=1, frozen=b, scale=1 / b)

        smaller = [Deployable(lane(b), prefix=b) for b in range(self.rank - 1, 0, -1)]
        return [Deployable(lane(self.rank)), *smaller]
