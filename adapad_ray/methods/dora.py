"""Weight-decomposed LoRA (DoRA of Liu et al., 2402.09353) through PEFT's own layers.

    W' = m ⊙ (W₀ + s B A) / ‖W₀ + s B A‖        m starts as ‖W₀‖; lengths are those of rows, one per output

The direction is adapted as in LoRA. The lengths `m [d_out]` learn too and are deployed, so they count: a module of rank
r costs r (d_in + d_out) + d_out parameters. As in the paper (section 4.3), no gradient flows through the divisor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from adapad_ray.adapters.external_models import ADAPTER, InjectedModel
from adapad_ray.adapters.lane import Lane
from adapad_ray.budget import BudgetTooSmallError, remedies
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.base import BudgetedMethod, MethodConfig
from adapad_ray.methods.plan import Plan
from adapad_ray.wording import counted


class DoraConfig(MethodConfig):
    """Settings of `dora`."""

    rank: int | None = Field(default=None, ge=1)
    """Rank of every module; by default the largest that the budget allows after the lengths."""


class DoraModel(InjectedModel):
    """PEFT's DoRA layers."""

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draws A as `PlainBlock` does; sets B to zero and the lengths to those of the backbone's rows."""
        for shape in self.shapes:
            layer = self.peft_layers[shape.name]
            a = torch.rand(layer.r[ADAPTER], shape.in_features, generator=generator) * 2 - 1
            layer.lora_A[ADAPTER].weight.copy_(a / math.sqrt(shape.in_features))
            layer.lora_B[ADAPTER].weight.zero_()
            magnitude = layer.lora_magnitude_vector[ADAPTER].weight
            weight = self.linears[shape.name].weight()
            if weight is None:
                kind = type(layer.get_base_layer()).__name__
                raise BadRequestError(
                    f"dora reads the weight of module {shape.name}, but that of a {kind} is unreadable"
                )
            magnitude.copy_(torch.linalg.norm(weight.to(magnitude.dtype), dim=1))

    @property
    def scales(self) -> dict[str, float]:
        return {name: layer.scaling[ADAPTER] for name, layer in self.peft_layers.items()}

    def factors(self, lane: Lane) -> dict[str, tuple[Tensor, Tensor]]:
        return {
            name: (layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight * layer.scaling[ADAPTER])
            for name, layer in self.peft_layers.items()
        }

    def magnitudes(self, lane: Lane) -> dict[str, Tensor]:
        return {name: layer.lora_magnitude_vector[ADAPTER].weight for name, layer in self.peft_layers.items()}


class Dora(BudgetedMethod[DoraConfig]):
    """LoRA of one rank on every module, with learnt lengths of the rows of every adapted weight."""

    name = "dora"
    summary = "weight-decomposed LoRA through PEFT: the lengths of the rows learn too, and count"
    Config = DoraConfig
    adapted: DoraModel
    structural = frozenset({"rank"})

    def plan(self) -> Plan:
        modules = self.context.modules
        self.check_rank("rank", self.config.rank)
        per_rank, lengths = sum(m.component_cost for m in modules), sum(m.out_features for m in modules)
        largest = min((self.budget - lengths) // per_rank, min(m.max_rank for m in modules))
        rank = self.config.rank or max(1, largest)
        parameters = rank * per_rank + lengths
        if parameters > self.budget:
            raise BudgetTooSmallError(
                f"budget {self.budget:,} is below rank {rank} on {counted(len(modules), 'module')} with the lengths of "
                f"their rows ({parameters:,}): {remedies()}"
            )
        ranks = dict.fromkeys((m.name for m in modules), rank)
        return Plan(parameters=parameters, peak_parameters=parameters, lanes=1, ranks=ranks)

    def attach(self, model: nn.Module, head_modules: Sequence[str]) -> DoraModel:
        from peft import LoraConfig

        modules = self.context.modules
        rank = next(iter((self.plan().ranks or {}).values()))
        config = LoraConfig(r=rank, lora_alpha=self.config.lora_alpha, use_dora=True)
        return DoraModel(model, modules, head_modules, config, dropout=self.config.dropout)

    def build(self, generator: torch.Generator) -> None:
        self.adapted.reset(generator)
        self.adapted.add_head(1)
