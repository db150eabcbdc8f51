"""The learning parameters of a pack in one matrix: a row holds everything that learns in one slot.

So clipping, finiteness and the optimizer are a few operations on `[slots, numbers]`, however many modules there are.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

# A leaf here is a part of the columns, so neither it nor its gradient is contiguous: slower only where gradients are
# sent to other processes.
warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout contract")


@dataclass(frozen=True)
class Stack:
    """One parameter of a module, for the slots `first` … `last - 1`: a part of the columns of the flat rows."""

    first: int
    last: int
    shape: tuple[int, ...]
    """Of one slot; padded to the largest rank."""
    start: int
    """First column."""
    segments: int
    """Parts of equal size that may have been created at different steps: the rows of `shape`, or 1."""
    segment: int
    """Number of the first segment among those of all stacks."""

    @property
    def width(self) -> int:
        """Columns."""
        return math.prod(self.shape)

    def of(self, flat: Tensor) -> Tensor:
        """Return the part of `flat` `[all slots, columns]` that belongs to this stack, `[slots, *shape]`."""
        part = flat[self.first : self.last, self.start : self.start + self.width]
        return part.view(len(part), *self.shape)


@dataclass(frozen=True, eq=False)
class Placed:
    """A parameter of a slot whose values are a part of a stack from now on."""

    slot: int
    parameter: nn.Parameter
    stack: Stack
    rows: slice | None
    """Of the stack's shape; None: all of it."""

    @property
    def segments(self) -> slice:
        """The segments of the parameter, among those of all stacks."""
        if self.rows is None:
            return slice(self.stack.segment, self.stack.segment + self.stack.segments)
        return slice(self.stack.segment + self.rows.start, self.stack.segment + self.rows.stop)

    def of(self, flat: Tensor) -> Tensor:
        """Return the part of `flat` that belongs to the parameter, in its shape."""
        own = self.stack.of(flat)[self.slot - self.stack.first]
        return own if self.rows is None else own[self.rows]


class FlatRows:
    """Columns are reserved with `reserve`, parameters are placed into them, and `allocate` moves their values there."""

    values: Tensor
    """`[slots, columns]`; every placed parameter is a view into it."""
    gradients: Tensor
    """The same for gradients; the backward pass adds to it."""
    segment_of_column: Tensor
    """int64 `[columns]`."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.placed: list[Placed] = []
        self.segments = 0
        self._segment_widths: list[int] = []
        self._stacks: list[Stack] = []
        self._leaves: dict[int, Tensor] = {}

    def reserve(self, shape: tuple[int, ...], slots: range, *, by_row: bool) -> Stack:
        """Reserve columns for a parameter that has this `shape` in every one of `slots`."""
        segments = shape[0] if by_row else 1
        stack = Stack(slots.start, slots.stop, shape, sum(self._segment_widths), segments, self.segments)
        self._stacks.append(stack)
        self._segment_widths += [stack.width // segments] * segments
        self.segments += segments
        return stack

    def place(self, slot: int, parameter: nn.Parameter, stack: Stack, rows: slice | None = None) -> None:
        """Place a parameter of `slot` into `stack`."""
        self.placed.append(Placed(slot, parameter, stack, rows))

    @torch.no_grad()
    def allocate(self, like: Tensor) -> None:
        """Move the values of all placed parameters into `values`, with the device and dtype of `like`."""
        widths = torch.tensor(self._segment_widths)
        self.segment_of_column = torch.repeat_interleave(torch.arange(len(widths)), widths).to(
            like.device, non_blocking=True
        )
        self.values = like.new_zeros(self.slots, sum(self._segment_widths))
        self.gradients = torch.zeros_like(self.values)
        for placed in self.placed:
            part = placed.of(self.values)
            part.copy_(placed.parameter)
            placed.parameter.data = part
        for stack in self._stacks:
            leaf = stack.of(self.values).detach().requires_grad_()
            leaf.grad = stack.of(self.gradients)
            self._leaves[stack.start] = leaf
        self._gradients = [placed.of(self.gradients) for placed in self.placed]

    def leaf(self, stack: Stack) -> Tensor:
        """Return the values of a stack, `[slots, *shape]`, as the passes differentiate them."""
        return self._leaves[stack.start]

    def link_gradients(self) -> None:
        """Make every placed parameter's gradient its part of `gradients`, unless it is already.

        Penalties add to it and methods read it. An optimizer that clears gradients clears all of them.
        """
        if self.placed[0].parameter.grad is self._gradients[0]:
            return
        for placed, gradient in zip(self.placed, self._gradients, strict=True):
            placed.parameter.grad = gradient
