"""Component families: how the two vectors of a rank-1 component are parametrised.

A block holds n components of one family that were born together. Whatever its parameters are, it offers the vectors
`a [n, d_in]` and `b [n, d_out]` of the update `Σ b_i a_iᵀ`; lanes, growth and the PEFT export see nothing else. The
family says what one component costs and makes the blocks. A new one is a subclass of `Block` and one of `Family`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from adapad_ray.budget import ModuleShape


class Block(nn.Module, ABC):
    """n components of one module, with their live parameters and their last published values."""

    published_a: Tensor
    published_b: Tensor

    def __init__(self, shape: ModuleShape, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("published_a", torch.zeros(size, shape.in_features))
        self.register_buffer("published_b", torch.zeros(size, shape.out_features))

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

    def hold_back(self) -> None:
        """Called where the new block is a reserve; by default it is like any other."""

    def release(self) -> None:
        """Called where the block, a reserve so far, becomes an active component."""

    @property
    def rank(self) -> int:
        """Components that are deployed as things stand: by default all."""
        return self.size

    def deployed(self) -> tuple[Tensor, Tensor]:
        """Published `(a [rank, d_in], b [rank, d_out])` of the components that are deployed as things stand."""
        return self.published()

    def compact(self, a: Tensor, b: Tensor) -> Mapping[str, Tensor]:
        """The family's own form of the deployed vectors `a [rank, d_in]`, `b [rank, d_out]` of this block, by name: as
        many numbers as the components cost. Empty where the vectors themselves are that form."""
        return {}


class Family(ABC):
    """What one component costs on a module, and how blocks are born."""

    name: str
    """Names the file of the family's own form beside an exported adapter."""

    def check(self, modules: Sequence[ModuleShape]) -> None:
        """Makes sure that these modules can carry components of this family.

        Raises:
            BadRequestError: says which module cannot and why.
        """
        for shape in modules:
            self.cost(shape)

    @abstractmethod
    def cost(self, shape: ModuleShape) -> int:
        """Parameters of one component on a module of this shape: what the budget is charged."""

    def gain(self, shape: ModuleShape) -> float:
        """Factor on the scale that makes a learning rate move a component about as far as a plain one."""
        return 1.0

    @abstractmethod
    def block(self, shape: ModuleShape, size: int, generator: torch.Generator) -> Block:
        """A new block of `size` components that starts as no update."""


class PlainBlock(Block):
    """Free vectors, as in LoRA (2106.09685): a uniform in ±1/√d_in, b zero, so the block starts as no update.

    The bound is the one that PEFT's LoRA uses (Kaiming with slope √5), for every method alike.
    """

    def __init__(self, shape: ModuleShape, size: int, generator: torch.Generator) -> None:
        super().__init__(shape, size)
        bound = 1 / math.sqrt(shape.in_features)
        a = (torch.rand(size, shape.in_features, generator=generator) * 2 - 1) * bound
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(torch.zeros(size, shape.out_features))

    def vectors(self) -> tuple[Tensor, Tensor]:
        return self.a, self.b


class Plain(Family):
    """Rank-1 components of `d_in + d_out` parameters."""

    name = "plain"

    def cost(self, shape: ModuleShape) -> int:
        return shape.component_cost

    def block(self, shape: ModuleShape, size: int, generator: torch.Generator) -> PlainBlock:
        return PlainBlock(shape, size, generator)


PLAIN = Plain()
