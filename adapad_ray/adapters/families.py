"""Component families: how the two vectors of a rank-1 component are parametrised.

A block holds n components of one family that were born together. Whatever its parameters are, it offers the vectors
`a [n, d_in]` and `b [n, d_out]` of the update `Σ b_i a_iᵀ`; lanes, growth and export see nothing else. A new family is
one subclass of `Block` and one entry of `FAMILIES`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from adapad_ray.budget import ModuleShape


class Block(nn.Module, ABC):
    """n rank-1 components of one module, with their live parameters and their last published values."""

    family: ClassVar[str]
    published_a: Tensor
    published_b: Tensor

    def __init__(self, shape: ModuleShape, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("published_a", torch.zeros(size, shape.in_features))
        self.register_buffer("published_b", torch.zeros(size, shape.out_features))

    @classmethod
    @abstractmethod
    def cost(cls, shape: ModuleShape) -> int:
        """Parameters of one component on a module of this shape."""

    @abstractmethod
    def vectors(self) -> tuple[Tensor, Tensor]:
        """`(a [n, d_in], b [n, d_out])`, differentiable in the block's parameters."""

    def published(self) -> tuple[Tensor, Tensor]:
        """The values that other lanes see."""
        return self.published_a, self.published_b

    @torch.no_grad()
    def publish(self) -> None:
        """Makes the live values the ones that other lanes see."""
        a, b = self.vectors()
        self.published_a.copy_(a)
        self.published_b.copy_(b)


class PlainBlock(Block):
    """Free vectors, as in LoRA (2106.09685): a uniform in ±1/√d_in, b zero, so the block starts as no update.

    The bound is the one that PEFT's LoRA uses (Kaiming with slope √5), for every method alike.
    """

    family = "plain"

    def __init__(self, shape: ModuleShape, size: int, generator: torch.Generator) -> None:
        super().__init__(shape, size)
        bound = 1 / math.sqrt(shape.in_features)
        a = (torch.rand(size, shape.in_features, generator=generator) * 2 - 1) * bound
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(torch.zeros(size, shape.out_features))

    @classmethod
    def cost(cls, shape: ModuleShape) -> int:
        return shape.component_cost

    def vectors(self) -> tuple[Tensor, Tensor]:
        return self.a, self.b


FAMILIES: dict[str, type[PlainBlock]] = {PlainBlock.family: PlainBlock}
