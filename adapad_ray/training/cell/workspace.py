"""What a worker keeps from one cell to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from adapad_ray.budget import ModuleShape
from adapad_ray.models import Backbone
from adapad_ray.models.shape_pass import flop_counter
from adapad_ray.models.target_modules import target_modules
from adapad_ray.tasks import TaskData
from adapad_ray.training.cell.evaluation import ModelPasses
from adapad_ray.training.passes.sequence_packing import check_packing

_WITHOUT_FLOPS = {"labels", "attention_mask", "token_type_ids", "position_ids"}


@dataclass(frozen=True)
class Workspace:
    """The frozen backbone and the tokenised data."""

    backbone: Backbone
    data: TaskData
    device: str = "cpu"

    @cached_property
    def forward_flops_per_token(self) -> float:
        """Floating-point operations of one forward pass of the bare backbone, per token."""
        return forward_flops_per_token(self.backbone.model, self.data)

    def twin(self) -> Workspace:
        """The same weights and data for a cell that trains beside others (see `Backbone.twin`)."""
        twin = replace(self, backbone=self.backbone.twin())
        vars(twin)["forward_flops_per_token"] = self.forward_flops_per_token
        return twin

    def passes(self, model: nn.Module, batch_size: int) -> ModelPasses:
        """The passes of a model over this data, as task types evaluate it."""
        backbone = self.backbone
        return ModelPasses(model, batch_size, backbone.pad_token_id, self.device, backbone.tokenizer)

    def check_packing(self, *, in_16_bits: bool) -> None:
        """Check that texts of the training data can share rows (see `sequence_packing.check_packing`)."""
        backbone, split = self.backbone, self.data.splits["train"]
        check_packing(backbone.model, split, backbone.pad_token_id, self.device, in_16_bits=in_16_bits)

    def shapes(self, names: tuple[str, ...]) -> tuple[ModuleShape, ...]:
        """Shapes of the modules with these full paths."""
        return target_modules(self.backbone.model, names)


def shape_inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that determine the operations of a pass. Models on the meta device cannot read the values of masks."""
    return {name: value for name, value in batch.items() if name not in _WITHOUT_FLOPS}


def forward_flops_per_token(model: nn.Module, data: TaskData) -> float:
    """Floating-point operations of a forward pass, per padded token, as torch counts them; also on the meta device."""
    split = data.splits["train"]
    rows = np.arange(min(8, len(split)))
    batch, device = split.batch(rows, pad_token_id=0), next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in shape_inputs(batch).items()}
    with torch.inference_mode(), flop_counter() as counter:
        model(**inputs)
    return float(counter.get_total_flops() / split.size_of(batch)[1])
