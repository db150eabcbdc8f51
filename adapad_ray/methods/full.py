"""Full fine-tuning: every weight of the backbone learns. The reference at the largest number of parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn

from adapad_ray.adapters.external_models import FullModel
from adapad_ray.methods.base import Method, MethodConfig
from adapad_ray.methods.plan import Plan, QuantizedBackboneError


class FullConfig(MethodConfig):
    """Settings of `full`. `lora_alpha` and `dropout` have no effect because there is no adapter."""

    learning_rate_scale: float = Field(default=0.1, gt=0)
    """Factor on the learning rate of head and backbone. Full fine-tuning needs a rate about ten times below LoRA's
    ("LoRA Without Regret"); with this factor it can share the range in which all methods are tuned. Change the factor
    to shift the rate of `full`: a tuned rate replaces the one in `methods.full.training`."""


class Full(Method[FullConfig]):
    """All weights learn, including embeddings and norms. There is no budget and no PEFT export."""

    name = "full"
    summary = "full fine-tuning: every weight of the backbone learns (a reference, without a budget)"
    Config = FullConfig

    @property
    def learning_rate_scale(self) -> float:
        return self.config.learning_rate_scale

    def plan(self) -> Plan:
        quantization, count = self.context.quantization, self.context.backbone_parameters
        if quantization is not None:
            raise QuantizedBackboneError(f"full trains the backbone's weights, which cannot learn in {quantization}")
        return Plan(parameters=count, peak_parameters=count, lanes=1, ranks={}, acting_parameters=0, backbone_passes=3)

    def attach(self, model: nn.Module, head_modules: Sequence[str]) -> FullModel:
        return FullModel(model, head_modules)

    def build(self, generator: torch.Generator) -> None:
        self.adapted.add_head(1)
