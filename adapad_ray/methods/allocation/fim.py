"""FIM-LoRA (2605.16800): ranks in proportion to the empirical Fisher information of each module's LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from adapad_ray.adapters.families import ProbeBlock, uniform_directions
from adapad_ray.budget import ModuleShape
from adapad_ray.methods.allocation.calibrated import CalibratedConfig, CalibratedMethod
from adapad_ray.methods.growth import PendingNumbers
from adapad_ray.methods.plan import CellContext


class FimConfig(CalibratedConfig):
    """Settings of `fim`."""

    calibration_steps: int = Field(default=8, ge=1)
    """Steps at the start in which the head learns alone and gradients are measured. The paper has eight backward passes
    before training."""


class Fim(CalibratedMethod[FimConfig]):
    """LoRA with rank_m ∝ F_m, the mean over the entries of B of the squared loss gradient, averaged over batches.

    That is the diagonal of the empirical Fisher matrix, restricted to the B of a uniform LoRA of the budget's mean rank
    at its start. What the paper rounds and bounds is not used; see `CalibratedMethod`.
    """

    name = "fim"
    summary = "FIM-LoRA: ranks from the variance of LoRA's gradients in a short calibration, then joint training"
    Config = FimConfig

    def __init__(self, config: FimConfig, context: CellContext) -> None:
        super().__init__(config, context)
        self.calibration_rank = max(1, round(self.budget / sum(self.costs.values())))
        self._squares: dict[str, float] = {}
        """Module → the sum of its squared gradients, over entries and batches."""
        self._pending = PendingNumbers()

    def directions(self, shape: ModuleShape, generator: torch.Generator) -> Tensor:
        return uniform_directions(shape, min(self.calibration_rank, shape.max_rank), generator)

    def measure(self, probes: Mapping[str, ProbeBlock]) -> None:
        gradients = {name: g for name, probe in probes.items() if (g := probe.take(add=False)) is not None}
        norms = torch.stack(torch._foreach_norm(list(gradients.values())))
        self._pending.add(list(gradients), norms.square())

    def claims(self, probes: Mapping[str, ProbeBlock]) -> dict[str, float]:
        self._pending.add_to(self._squares)
        return {name: self._squares.get(name, 0.0) / probe.b.numel() for name, probe in probes.items()}

    def state(self) -> dict[str, Any]:
        self._pending.add_to(self._squares)
        return {"squares": self._squares}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._squares = dict(state["squares"])
