"""Components with a scalar of their own, `Σ e_i b_i a_iᵀ`, the form of IncreLoRA (2308.12043) and AdaLoRA."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapad_ray.adapters.families import Block, Family
from adapad_ray.budget import ModuleShape

_SPREAD = 0.02
_HELD = 1e-5


class TripletBlock(Block):
    """n triplets: a and b are born normal with deviation 0.02, e is born 0, so the block starts as no update.

    A reserve has no e yet but the constant 1e-5, small enough to change nothing: its a and b learn beforehand. When it
    becomes active, e is born with this value, and learns from then on. All numbers are those of IncreLoRA's code.
    """

    def __init__(self, shape: ModuleShape, size: int, generator: torch.Generator) -> None:
        super().__init__(shape, size)
        self.a = nn.Parameter(torch.randn(size, shape.in_features, generator=generator) * _SPREAD)
        self.b = nn.Parameter(torch.randn(size, shape.out_features, generator=generator) * _SPREAD)
        self.e: nn.Parameter | None = nn.Parameter(torch.zeros(size))

    def vectors(self) -> tuple[Tensor, Tensor]:
        return self.a, self.b * (_HELD if self.e is None else self.e.unsqueeze(-1))

    def hold_back(self) -> None:
        self.e = None

    def release(self) -> None:
        self.e = nn.Parameter(torch.full_like(self.a[:, 0], _HELD))


class Triplet(Family):
    """Triplets, deployed as LoRA components: e, one number per component while it learns, is folded into b."""

    name = "triplet"

    def cost(self, shape: ModuleShape) -> int:
        return shape.component_cost

    def block(self, shape: ModuleShape, size: int, generator: torch.Generator) -> TripletBlock:
        return TripletBlock(shape, size, generator)
