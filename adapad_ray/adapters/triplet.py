"""Components with a trained scalar, `Σ e_i b_i a_iᵀ`, the form of IncreLoRA (2308.12043) and AdaLoRA."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor, nn

from adapad_ray.adapters.families import Block, Family
from adapad_ray.budget import ModuleShape

_INITIAL_DEVIATION = 0.02
_RESERVE_SCALAR = 1e-5


class TripletBlock(Block):
    """n triplets: a and b start normal with deviation 0.02 and e starts at 0, so the block starts as no update.

    In a reserve the constant 1e-5 stands for e, small enough to change nothing, so that a and b learn beforehand. When
    the reserve becomes active, e starts at this value and learns from then on. All values are from IncreLoRA's code.
    """

    def __init__(self, shape: ModuleShape, size: int, generator: torch.Generator) -> None:
        super().__init__(shape, size)
        self.a = nn.Parameter(torch.randn(size, shape.in_features, generator=generator) * _INITIAL_DEVIATION)
        self.b = nn.Parameter(torch.randn(size, shape.out_features, generator=generator) * _INITIAL_DEVIATION)
        self.e: nn.Parameter | None = nn.Parameter(torch.zeros(size))

    def vectors(self) -> tuple[Tensor, Tensor]:
        return self.a, self.b * (_RESERVE_SCALAR if self.e is None else self.e.unsqueeze(-1))

    @property
    def kind(self) -> Hashable | None:
        """A reserve has another form, and stands in no stack."""
        return None if self.e is None else "triplet"

    @staticmethod
    def stacked_vectors(parameters: Mapping[str, Tensor], constants: Tensor | None) -> tuple[Tensor, Tensor]:
        return parameters["a"], parameters["b"] * parameters["e"].unsqueeze(-1)

    def hold_back(self) -> None:
        self.e = None

    def release(self) -> None:
        self.e = nn.Parameter(torch.full_like(self.a[:, 0], _RESERVE_SCALAR))


class Triplet(Family):
    """Triplets, deployed as LoRA components: e, one more parameter per component in training, is folded into b."""

    name = "triplet"

    def cost(self, shape: ModuleShape) -> int:
        return shape.component_cost

    def block(self, shape: ModuleShape, size: int, generator: torch.Generator) -> TripletBlock:
        return TripletBlock(shape, size, generator)
