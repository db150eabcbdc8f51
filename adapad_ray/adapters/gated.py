"""Components behind gates, in units that each have a rank of their own: an attention head, or a whole module.

A head owns a slice of one side of W: rows of the output for query, key and value, columns of the input for the output
projection. A component of a head reads or writes its slice only and costs `d_in + d_out / heads` (or `d_in / heads +
d_out`). As LoRA factors the heads of a module stand side by side, with zeros where a component does not reach.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapad_ray.adapters.families import Block, Family
from adapad_ray.budget import ModuleShape


@dataclass(frozen=True)
class Layout:
    """How one module's components are shared out among its units."""

    per_head: bool
    units: int
    most: int
    """Components that a unit may come to have."""
    reads: int
    """Length of a component's a: d_in, or a head's slice of it."""
    writes: int
    """Length of a component's b: d_out, or a head's slice of it."""
    reads_slice: bool
    writes_slice: bool
    initial_rank: int
    rate: float
    ramp: float


class GatedBlock(Block):
    """Every component that the units of one module may come to have; those with an open gate act.

    With x the rank that a unit wishes, as a real number, component j of the unit has the gate

        g_j = m_j + (c_j − stop_grad(c_j))        c_j = clip((x − (j − ½)) / ramp + ½, 0, 1)

    where m_j is 1 or 0 as `set_ranks` has left it: in the forward pass a component acts or does not. The gradient
    reaches x through the components within half a `ramp` of the boundary. What is closed keeps its values and, in the
    optimizer, its moments; it gets no gradient, so after closing it drifts for a few steps of momentum and then rests.

    a is uniform in ±1/√(its length) and b zero, as in a plain block.
    """

    gates: Tensor
    shift: Tensor
    before: Tensor

    def __init__(self, shape: ModuleShape, layout: Layout, generator: torch.Generator) -> None:
        super().__init__(shape, layout.units * layout.most)
        self.layout = layout
        bound = 1 / math.sqrt(layout.reads)
        a = (torch.rand(self.size, layout.reads, generator=generator) * 2 - 1) * bound
        self.a = nn.Parameter(a)
        self.b = nn.Parameter(torch.zeros(self.size, layout.writes))
        self.theta = nn.Parameter(torch.full((layout.units,), 1 / layout.rate))
        self.register_buffer("gates", torch.zeros(self.size))
        self.register_buffer("shift", torch.zeros(()))
        self.register_buffer("before", torch.ones(layout.units))

    @property
    def alpha(self) -> Tensor:
        """α `[units]`: the rank that each unit wishes, in units of the initial rank."""
        return self.layout.rate * self.theta

    def vectors(self) -> tuple[Tensor, Tensor]:
        layout = self.layout
        wish = layout.initial_rank * self.alpha - self.shift
        boundary = torch.arange(layout.most, device=wish.device) + 0.5
        soft = ((wish.unsqueeze(-1) - boundary) / layout.ramp + 0.5).clamp(0, 1).flatten()
        b = (self.gates + (soft - soft.detach())).unsqueeze(-1) * self.b
        return self._whole(self.a, layout.reads_slice), self._whole(b, layout.writes_slice)

    def _whole(self, part: Tensor, sliced: bool) -> Tensor:
        """Vectors on the whole module from `part`, which hold one slice each where `sliced`."""
        if not sliced:
            return part
        units, most = self.layout.units, self.layout.most
        own = torch.eye(units, dtype=part.dtype, device=part.device).view(units, 1, units, 1)
        return (own * part.view(units, most, 1, -1)).reshape(self.size, -1)

    @torch.no_grad()
    def set_ranks(self, ranks: list[int], shift: float) -> None:
        """Opens the first components of every unit. `shift` is what every wish is lowered by to meet the budget."""
        opened = torch.arange(self.layout.most).unsqueeze(0) < torch.tensor(ranks).unsqueeze(1)
        self.gates.copy_(opened.flatten())
        self.shift.fill_(shift)
        self.before.copy_(self.alpha)

    @torch.no_grad()
    def clip_alpha(self, largest: float) -> None:
        """Brings α back into [0, `largest`]."""
        self.theta.clamp_(0, largest / self.layout.rate)

    @property
    def unit_ranks(self) -> list[int]:
        """Open components of every unit."""
        return [int(n) for n in self.gates.view(self.layout.units, -1).sum(dim=1).tolist()]

    @property
    def rank(self) -> int:
        return int(self.gates.sum())

    def deployed(self) -> tuple[Tensor, Tensor]:
        opened = self.gates.bool()
        return self.published_a[opened], self.published_b[opened]

    def compact(self, a: Tensor, b: Tensor) -> Mapping[str, Tensor]:
        """`head_<h>.a`, `head_<h>.b`, slices instead of zeros, for every head; nothing where modules are the units."""
        if not self.layout.per_head:
            return {}
        parts: dict[str, Tensor] = {}
        rows = zip(torch.split(a, self.unit_ranks), torch.split(b, self.unit_ranks), strict=True)
        for head, (head_a, head_b) in enumerate(rows):
            reads = slice(head * self.layout.reads, (head + 1) * self.layout.reads)
            writes = slice(head * self.layout.writes, (head + 1) * self.layout.writes)
            parts[f"head_{head}.a"] = head_a[:, reads] if self.layout.reads_slice else head_a
            parts[f"head_{head}.b"] = head_b[:, writes] if self.layout.writes_slice else head_b
        return parts


class Gated(Family):
    """Blocks of gated components, one block a module.

    Args:
        per_head: whether a unit is an attention head, where a module has heads, or always the module.
        initial_rank: r₀, the rank of every unit at α = 1, with which training begins.
        alpha_max: largest α; a unit has `initial_rank · alpha_max` components at most, as far as they add anything.
        rate: how many times faster than a weight α moves under an optimizer that ignores the gradient's size.
        ramp: width, in ranks, of the slope that replaces the step of the rounding in the backward pass.
    """

    def __init__(self, *, per_head: bool, initial_rank: int, alpha_max: float, rate: float, ramp: float) -> None:
        self.name = "per_head" if per_head else "plain"
        self.per_head, self.initial_rank, self.alpha_max = per_head, initial_rank, alpha_max
        self.rate, self.ramp = rate, ramp

    def layout(self, shape: ModuleShape) -> Layout:
        """How the components of this module are shared out."""
        heads = shape.heads if self.per_head else 1
        reads_slice, writes_slice = heads > 1 and shape.heads_read, heads > 1 and not shape.heads_read
        reads = shape.in_features // heads if reads_slice else shape.in_features
        writes = shape.out_features // heads if writes_slice else shape.out_features
        return Layout(
            per_head=self.per_head,
            units=heads,
            most=min(math.ceil(self.initial_rank * self.alpha_max), reads, writes),
            reads=reads,
            writes=writes,
            reads_slice=reads_slice,
            writes_slice=writes_slice,
            initial_rank=self.initial_rank,
            rate=self.rate,
            ramp=self.ramp,
        )

    def cost(self, shape: ModuleShape) -> int:
        layout = self.layout(shape)
        return layout.reads + layout.writes

    def block(self, shape: ModuleShape, size: int, generator: torch.Generator) -> GatedBlock:
        layout = self.layout(shape)
        if size != layout.units * layout.most:
            raise ValueError(f"a gated block of {shape.name} has {layout.units * layout.most} components, not {size}")
        return GatedBlock(shape, layout, generator)
