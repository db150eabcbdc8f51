"""Component families: how the two vectors of a rank-1 component are parametrised.

A block holds n components of one family that were created together. Whatever its parameters are, it provides the
vectors `a [n, d_in]` and `b [n, d_out]` of the update `Σ b_i a_iᵀ`; lanes, growth and the PEFT export use nothing else.
The family defines the cost of a component and creates blocks. A new family subclasses `Block` and `Family`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence

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
        """Return `(a [n, d_in], b [n, d_out])`, differentiable in the block's parameters."""

    def published(self) -> tuple[Tensor, Tensor]:
        """Return the values that act in other lanes."""
        return self.published_a, self.published_b

    @torch.no_grad()
    def publish(self) -> None:
        """Make the live values the ones that act in other lanes."""
        a, b = self.vectors()
        self.published_a.copy_(a)
        self.published_b.copy_(b)

    def hold_back(self) -> None:
        """Called on a new block that is a reserve; by default nothing changes."""

    def release(self) -> None:
        """Called when the block, a reserve so far, becomes active; by default nothing changes."""

    def restored(self) -> None:
        """Called when saved values have replaced those of the block; by default nothing changes."""

    @property
    def rank(self) -> int:
        """Components that would be deployed at present; by default all."""
        return self.size

    def deployed(self) -> tuple[Tensor, Tensor]:
        """Return the published `(a [rank, d_in], b [rank, d_out])` of the components that would be deployed."""
        return self.published()

    @property
    def kind(self) -> Hashable | None:
        """What blocks of this class must have in common to stand in one stack, where their parameters differ in the
        number of rows alone; None: this block cannot."""
        return None

    def row_constants(self) -> Tensor | None:
        """Return the constants of each component, `[n, …]`, that `stacked_vectors` needs; None where it needs none."""
        return None

    @staticmethod
    def stacked_vectors(parameters: Mapping[str, Tensor], constants: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same as `vectors` for blocks in a stack: `(a [slots, n, d_in], b [slots, n, d_out])`.

        Args:
            parameters: name → `[slots, n, …]`, differentiable; rows of zeros fill up to the largest n and must give
                vectors, and gradients, of zeros.
            constants: the `row_constants` of all blocks, `[slots, n, …]`.
        """
        raise NotImplementedError

    def compact(self, a: Tensor, b: Tensor) -> Mapping[str, Tensor]:
        """Return the family's own form of this block's deployed vectors `a [rank, d_in]`, `b [rank, d_out]`, by name.

        It has as many numbers as the components cost. Empty where the vectors themselves are that form.
        """
        return {}


class Family(ABC):
    """The cost of a component on a module, and how blocks are created."""

    name: str
    """Stem of the file that holds an exported adapter in the family's own form."""

    def check(self, modules: Sequence[ModuleShape]) -> None:
        """Check that these modules can carry components of this family.

        Raises:
            BadRequestError: a module cannot; the message names it and the reason.
        """
        for shape in modules:
            self.cost(shape)

    @abstractmethod
    def cost(self, shape: ModuleShape) -> int:
        """Return the parameters of one component on a module of this shape: what the budget is charged."""

    def gain(self, shape: ModuleShape) -> float:
        """Return the factor on the scale with which a learning rate moves a component about as far as a plain one."""
        return 1.0

    @abstractmethod
    def block(self, shape: ModuleShape, size: int, generator: torch.Generator) -> Block:
        """Return a new block of `size` components that starts as no update."""


class PlainBlock(Block):
    """Free vectors, as in LoRA (2106.09685): a as `uniform_directions` for every method, b zero, so the block starts as
    no update."""

    def __init__(self, shape: ModuleShape, size: int, generator: torch.Generator) -> None:
        super().__init__(shape, size)
        self.a = nn.Parameter(uniform_directions(shape, size, generator))
        self.b = nn.Parameter(torch.zeros(size, shape.out_features))

    def vectors(self) -> tuple[Tensor, Tensor]:
        return self.a, self.b

    @property
    def kind(self) -> Hashable:
        return "plain"

    @staticmethod
    def stacked_vectors(parameters: Mapping[str, Tensor], constants: Tensor | None) -> tuple[Tensor, Tensor]:
        return parameters["a"], parameters["b"]


class ProbeBlock(Block):
    """Directions in which the loss gradient G of the frozen weight is measured; they never act and never learn.

    With b zero, the gradient with respect to b is `s a Gᵀ` `[size, d_out]`. For random directions that is a sketch of
    G, whose norms and singular values are near those of G (Halko, Martinsson and Tropp 2011); G is never formed.
    `published_b` holds the sum of the gradients taken so far, so that checkpoints and other workers have it.

    Args:
        directions: the rows of a, `[size, d_in]`.
    """

    a: Tensor
    b: Tensor

    def __init__(self, shape: ModuleShape, directions: Tensor) -> None:
        super().__init__(shape, len(directions))
        self.register_buffer("a", directions)
        self.register_buffer("b", torch.zeros(len(directions), shape.out_features))

    def vectors(self) -> tuple[Tensor, Tensor]:
        return self.a, self.b.requires_grad_()

    @torch.no_grad()
    def take(self, *, add: bool) -> Tensor | None:
        """Return the gradient of the last backward pass `[size, d_out]`, and add it to the sum; None without one."""
        gradient, self.b.grad = self.b.grad, None
        if gradient is not None and add:
            self.published_b += gradient
        return gradient


def gaussian_directions(shape: ModuleShape, size: int, generator: torch.Generator) -> Tensor:
    """Return `[size, d_in]` directions whose sketch of G has the norm of G in the mean."""
    return torch.randn(size, shape.in_features, generator=generator) / math.sqrt(size)


def uniform_directions(shape: ModuleShape, size: int, generator: torch.Generator) -> Tensor:
    """Return `[size, d_in]` directions uniform in ±1/√d_in: the a of a fresh LoRA, with the bound of PEFT's (Kaiming
    with slope √5)."""
    bound = 1 / math.sqrt(shape.in_features)
    return (torch.rand(size, shape.in_features, generator=generator) * 2 - 1) * bound


class Plain(Family):
    """Rank-1 components of `d_in + d_out` parameters."""

    name = "plain"

    def cost(self, shape: ModuleShape) -> int:
        return shape.component_cost

    def block(self, shape: ModuleShape, size: int, generator: torch.Generator) -> PlainBlock:
        return PlainBlock(shape, size, generator)


PLAIN = Plain()
