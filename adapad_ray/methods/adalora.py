"""AdaLoRA (2303.10512) through PEFT's own layers and its own `RankAllocator`.

    W = W₀ + s B diag(λ) A        λ starts at zero; B and A are drawn Gaussian and pulled towards orthogonality

Training starts with more triplets (one λ, its row of A, its column of B) than the budget allows. After every optimizer
step the allocator updates their importance and, on a cubic schedule, sets the λ of the least important ones of the
whole model to zero. Until the final allocation a masked triplet keeps learning and may return. The deployed adapter is
plain LoRA: λ and the scale are folded into B, so λ counts as a parameter in training but not when deployed.

PEFT's allocator counts triplets, a budget counts parameters, and modules differ in size. This project therefore makes
two choices that are not published: the schedule aims at the number of triplets that the budget holds at the modules'
mean cost, and the final allocation keeps as many of the best triplets as the budget holds at their true cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from adapad_ray.adapters.external_models import ADAPTER, InjectedModel
from adapad_ray.adapters.lane import Lane
from adapad_ray.budget import BudgetTooSmallError
from adapad_ray.methods.base import BudgetedMethod, MethodConfig
from adapad_ray.methods.plan import Plan

_AVERAGES = "allocator"
"""Marks the allocator's averages among the tensors of the state: PEFT keeps them in plain dicts of its own."""


class AdaloraConfig(MethodConfig):
    """Settings of `adalora`. Those of the schedule are shares of the steps."""

    initial_factor: float = Field(default=1.5, gt=1)
    """Triplets at the start over those at the end, b⁽⁰⁾ / b⁽ᵀ⁾: 1.5 in the paper. Every module starts with the same
    number, so it is rounded up to whole ranks."""
    allocation_start: float = Field(default=0.12, ge=0, lt=1)
    """t_i, until which nothing is pruned: about the mean of the shares in the paper's GLUE settings (0.09 to 0.18)."""
    allocation_end: float = Field(default=0.5, gt=0, le=1)
    """1 - t_f, from which on the ranks are fixed: about the mean of the paper's GLUE settings (0.42 to 0.56)."""
    allocation_interval: int = Field(default=1, ge=1)
    """ΔT, steps between two allocations: 1 is PEFT's default and the paper's choice on small tasks; on large ones it
    takes 100."""
    beta1: float = Field(default=0.85, gt=0, lt=1)
    """Decay of the moving average of the importance."""
    beta2: float = Field(default=0.85, gt=0, lt=1)
    """Decay of the moving average of its uncertainty."""
    orth_reg_weight: float = Field(default=0.5, ge=0)
    """γ of the orthogonality penalty. Value and form are PEFT's: the mean of the norms, where the paper sums their
    squares with γ from 0.1 to 0.5."""

    @model_validator(mode="after")
    def _consistent(self) -> AdaloraConfig:
        if self.allocation_end <= self.allocation_start:
            raise ValueError(
                f"allocation_end {self.allocation_end} must come after allocation_start {self.allocation_start}"
            )
        return self


class AdaloraModel(InjectedModel):
    """PEFT's AdaLoRA layers with the state of their allocator."""

    kept: dict[str, list[bool]] | None = None
    """Module → which of its triplets are deployed; None before the final allocation."""

    @property
    def allocator(self) -> Any:
        """PEFT's `RankAllocator`."""
        return self.tuner.rankallocator

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draws A and B from N(0, 0.02²) as PEFT does, with λ = 0."""
        for layer in self.peft_layers.values():
            for matrix in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]):
                matrix.copy_(torch.randn(matrix.shape, generator=generator) * 0.02)
            layer.lora_E[ADAPTER].zero_()
            layer.ranknum[ADAPTER].fill_(layer.r[ADAPTER])  # created in the backbone's precision, which may round it

    def orthogonality(self) -> Tensor:
        """Mean over all A and B of ‖A Aᵀ - I‖_F and ‖Bᵀ B - I‖_F: the term that PEFT adds to losses it computes."""
        norms = []
        for layer in self.peft_layers.values():
            for rows in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER].T):
                gram = rows @ rows.T
                norms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
        return torch.stack(norms).mean()

    def scores(self) -> dict[str, Tensor]:
        """Module → importance of its triplets, computed by the allocator."""
        score, combine = self.allocator._element_score, self.allocator._combine_ipt
        found = {}
        for name in self.peft_layers:
            a, b = score(f"{name}.lora_A.{ADAPTER}"), score(f"{name}.lora_B.{ADAPTER}")
            both = torch.stack([a.mean(dim=1), b.mean(dim=0)], dim=1)
            found[name] = combine(score(f"{name}.lora_E.{ADAPTER}"), both)
        return found

    def zero_missing_gradients(self) -> None:
        """Gives zero gradients to parameters without one: the allocator reads the gradient of every parameter."""
        for p in self.trained().values():
            if p.grad is None:
                p.grad = torch.zeros_like(p)

    def keep(self, pattern: Mapping[str, list[bool]]) -> None:
        """Fixes the deployed triplets from the allocator's rank pattern."""
        self.kept = {name: pattern[f"{name}.lora_E.{ADAPTER}"] for name in self.peft_layers}

    @torch.no_grad()
    def mask(self) -> None:
        """Sets λ of all triplets that are not deployed to zero.

        PEFT's own `mask_using_rank_pattern` would wait for the device module by module.
        """
        for name, kept in (self.kept or {}).items():
            scalars = self.peft_layers[name].lora_E[ADAPTER]
            scalars.masked_fill_(~torch.tensor(kept).unsqueeze(-1).to(scalars.device, non_blocking=True), 0.0)

    @property
    def ranks(self) -> dict[str, int]:
        """Module → triplets that are not masked now."""
        pattern = self.config.rank_pattern or {}
        return {
            name: sum(pattern.get(f"{name}.lora_E.{ADAPTER}", [True] * layer.r[ADAPTER]))
            for name, layer in self.peft_layers.items()
        }

    def deployed_parameters(self, lane: Lane) -> int:
        """Parameters as exported, with λ folded in; 0 before the final allocation."""
        kept = self.kept or {}
        return sum(sum(kept.get(shape.name, [])) * shape.component_cost for shape in self.shapes)

    @property
    def scales(self) -> dict[str, float]:
        return {
            name: float(layer.scaling[ADAPTER] / (layer.ranknum[ADAPTER] + 1e-5))
            for name, layer in self.peft_layers.items()
        }

    def factors(self, lane: Lane) -> dict[str, tuple[Tensor, Tensor]]:
        found = {}
        for name, kept in (self.kept or {}).items():
            layer, chosen = self.peft_layers[name], torch.tensor(kept)
            a, b = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER] * layer.lora_E[ADAPTER].T
            if any(kept):
                found[name] = (a[chosen], b[:, chosen] * self.scales[name])
        return found

    def state(self) -> dict[str, Tensor]:
        allocator = self.allocator
        averages = {"importance": allocator.exp_avg_ipt, "uncertainty": allocator.exp_avg_unc}
        named = {f"{_AVERAGES}|{kind}|{n}": tensor for kind, of in averages.items() for n, tensor in of.items()}
        return super().state() | named

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor], *, partial: bool = False) -> None:
        averages = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{_AVERAGES}|")}
        allocator = self.allocator
        allocator.reset_ipt()
        super().load_state({n: t for n, t in tensors.items() if n not in averages}, partial=partial)
        for key, tensor in averages.items():
            _, kind, name = key.split("|")
            of = allocator.exp_avg_ipt if kind == "importance" else allocator.exp_avg_unc
            of[name] = tensor.to(self.model.get_parameter(name).device, copy=True)
            allocator.ipt[name] = torch.zeros_like(of[name])  # PEFT only tests for its presence


class Adalora(BudgetedMethod[AdaloraConfig]):
    """Adaptive ranks by pruning triplets during training."""

    name = "adalora"
    summary = "AdaLoRA through PEFT: starts above the budget and prunes the least important components"
    Config = AdaloraConfig
    adapted: AdaloraModel

    @cached_property
    def _start(self) -> int:
        """t_i, in optimizer steps."""
        return min(round(self.config.allocation_start * self.context.total_steps), self._end - 1)

    @cached_property
    def _end(self) -> int:
        """The step after which the final allocation is made."""
        return max(1, round(self.config.allocation_end * self.context.total_steps))

    @property
    def _target(self) -> int:
        """Triplets at which the schedule aims: as many as the budget holds at the mean cost."""
        return max(1, self.budget * len(self.costs) // sum(self.costs.values()))

    @property
    def _initial_rank(self) -> int:
        """Triplets of every module at the start: more than the target in total, so that some can be pruned."""
        count = len(self.context.modules)
        initial = max(math.ceil(self.config.initial_factor * self._target / count), self._target // count + 1)
        return min(initial, min(m.max_rank for m in self.context.modules))

    def plan(self) -> Plan:
        largest, cost = max(self.costs.items(), key=lambda item: item[1])
        if self.budget < cost:
            raise BudgetTooSmallError(
                f"budget {self.budget:,} is below one component on {largest} ({cost:,}), which may be the one that the "
                "allocator keeps: raise it or pass other target_modules"
            )
        initial = self._initial_rank * sum(self.costs.values())
        trained = initial + self._initial_rank * len(self.costs)  # a triplet has its λ too
        return Plan(
            parameters=min(self.budget, initial - min(self.costs.values())),
            peak_parameters=trained,
            acting_parameters=trained,
            lanes=1,
            ranks=None,
        )

    def scales(self) -> dict[str, float]:
        return self.budget_scales()

    def attach(self, model: nn.Module, head_modules: Sequence[str]) -> AdaloraModel:
        from peft import AdaLoraConfig

        rank, settings, total = self._initial_rank, self.config, self.context.total_steps
        scale = next(iter(self.scales().values()))
        config = AdaLoraConfig(
            init_r=rank,
            lora_alpha=scale * rank,  # PEFT divides by the initial rank, also after pruning
            tinit=self._start,
            tfinal=total - self._end,
            deltaT=settings.allocation_interval,
            beta1=settings.beta1,
            beta2=settings.beta2,
            orth_reg_weight=settings.orth_reg_weight,
            total_step=total,
        )
        adapted = AdaloraModel(model, self.context.modules, head_modules, config, dropout=settings.dropout)
        adapted.allocator.target_bgt = min(self._target, adapted.allocator.init_bgt - 1)
        return adapted

    def build(self, generator: torch.Generator) -> None:
        self.adapted.reset(generator)
        self.adapted.add_head(1)

    def penalty(self, lane: Lane) -> Tensor | None:
        weight = self.config.orth_reg_weight
        return weight * self.adapted.orthogonality() if weight else None

    def stepped(self, steps_done: int) -> None:
        """Allocates in PEFT's order: after the optimizer's step, before its gradients are cleared.

        PEFT's allocator waits for the device in every allocation: once, and once per module.
        """
        model = self.adapted
        if steps_done > self._end:
            model.mask()
            return
        model.zero_missing_gradients()
        if steps_done == self._end:
            if not model.allocator.exp_avg_ipt:  # the training is too short for a step before the final allocation
                model.allocator.update_ipt(model.model)
            model.allocator.target_bgt = self._affordable()
        model.tuner.update_and_allocate(steps_done)
        if steps_done == self._end:
            model.keep(model.config.rank_pattern)

    def _affordable(self) -> int:
        """Largest number of best triplets that the budget holds; the allocator always prunes at least one."""
        scores = self.adapted.scores()
        ordered = torch.cat([scores[name] for name in self.costs]).sort(descending=True, stable=True).indices
        costs = torch.tensor([cost for name, cost in self.costs.items() for _ in scores[name]])
        fitting = int((costs[ordered.cpu()].cumsum(0) <= self.budget).sum())
        return min(fitting, len(costs) - 1)

    def state(self) -> dict[str, Any]:
        return {"rank_pattern": self.adapted.config.rank_pattern, "kept": self.adapted.kept}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.adapted.config.rank_pattern = state["rank_pattern"]
        self.adapted.kept = state["kept"]
