"""The right end of the axis: full fine-tuning, every weight of the backbone learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import nn

from adapad_ray.adapters.external_models import FullModel
from adapad_ray.methods.base import CellContext, Method, MethodConfig, Plan


class FullConfig(MethodConfig):
    """Settings of `full`; there is no adapter to which `lora_alpha` or `dropout` could apply."""

    learning_rate_scale: float = Field(default=0.1, gt=0)
    """Factor on the learning rate, of head and backbone alike. Full fine-tuning wants a rate about ten times below
    LoRA's ("LoRA Without Regret"), so with this factor it can share the range in which all methods are tuned. It is
    also the way to move it: a tuned rate replaces the one that `methods.full.training` says."""


class Full(Method[FullConfig]):
    """W learns as a whole, embeddings and norms included. It has no budget and exports no PEFT adapter."""

    name = "full"
    summary = "full fine-tuning: every weight of the backbone learns (a reference, without a budget)"
    Config = FullConfig
    budgeted = False
    backbone_passes = 3

    def __init__(self, config: FullConfig, context: CellContext) -> None:
        super().__init__(config, context)
        self.learning_rate_scale = config.learning_rate_scale

    def plan(self) -> Plan:
        count = self.context.backbone_parameters
        return Plan(parameters=count, peak_parameters=count, lanes=1, ranks={}, acting_parameters=0)

    def attach(self, model: nn.Module, head_modules: Sequence[str]) -> FullModel:
        return FullModel(model, head_modules)

    def build(self, generator: torch.Generator) -> None:
        self.adapted.add_head(1)
