"""GoRA (2502.12171): ranks and first values from the gradient of the frozen weights."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from adapad_ray.adapters.families import Block, ProbeBlock
from adapad_ray.budget import ModuleShape
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.allocation.calibrated import CalibratedConfig, CalibratedMethod


class GoraConfig(CalibratedConfig):
    """Settings of `gora`."""

    calibration_steps: int = Field(default=32, ge=1)
    """Steps at the start in which the head learns alone and gradients are measured. The authors' scripts have 32 passes
    before training."""
    step_size: float = Field(default=0.05, ge=0)
    """γ of the first update (0.05 in the authors' scripts); 0 starts as LoRA does."""


class Gora(CalibratedMethod[GoraConfig]):
    """LoRA with rank_m ∝ I_m / √(d_in + d_out), I_m = mean |W₀ ⊙ Ḡ|, and a first update along Ḡ.

        B = −(γ / s) √(d_in / r) Ḡ Aᵀ (A Aᵀ)⁻¹        so that s B A is about as long as γ Ḡ

    Ḡ `[d_out, d_in]` is the mean loss gradient of the frozen weight over the calibration, and A that of a fresh LoRA.
    The sign is that of descent. Ḡ is held in full until the allocation: a gradient and a d_in × d_in matrix a module.
    """

    name = "gora"
    summary = "GoRA: ranks and first values from the gradients of the frozen weights, then joint training"
    Config = GoraConfig

    def directions(self, shape: ModuleShape, generator: torch.Generator) -> Tensor:
        return torch.eye(shape.in_features)

    def _gradient(self, name: str, probe: ProbeBlock) -> Tensor:
        """Ḡ `[d_out, d_in]`."""
        return probe.published_b.T / (self.calibration * self.adapted.layers[name].scaling)

    def claims(self, probes: Mapping[str, ProbeBlock]) -> dict[str, float]:
        importances = torch.stack([self._importance(name, probe) for name, probe in probes.items()]).tolist()
        return {
            name: importance / math.sqrt(self.costs[name]) for name, importance in zip(probes, importances, strict=True)
        }

    def _importance(self, name: str, probe: ProbeBlock) -> Tensor:
        linear = self.adapted.layers[name].linear
        weight = linear.weight()
        if weight is None:
            kind = type(linear.module).__name__
            raise BadRequestError(f"gora reads the weight of module {name}, but that of a {kind} is unreadable")
        return (weight * self._gradient(name, probe)).abs().mean()

    @torch.no_grad()
    def initialise(self, name: str, block: Block, probe: ProbeBlock) -> None:
        a, b = block.vectors()  # [r, d_in], [r, d_out]
        step = self.config.step_size * math.sqrt(a.shape[1] / a.shape[0]) / self.adapted.layers[name].scaling
        solution, _ = torch.linalg.solve_ex(a @ a.T, a @ self._gradient(name, probe).T)  # `solve` waits for the device
        b.copy_(-step * solution)
