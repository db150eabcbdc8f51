"""Components behind gates. Each unit, an attention head or a whole module, has its own rank.

A head has a slice of one side of W: rows of the output for query, key and value, columns of the input for the output
projection. A component of a head reads or writes that slice only and costs `d_in + d_out / heads` (or `d_in / heads +
d_out`). In the LoRA factors the components of all heads stand one below another, with zeros outside their slices.
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
    """How the components of one module are divided among its units."""

    per_head: bool
    units: int
    most: int
    """Largest rank of a unit."""
    reads: int
    """Length of a component's a: d_in, or a head's slice of it."""
    writes: int
    """Length of a component's b: d_out, or a head's slice of it."""
    reads_slice: bool
    """Whether a component reads a slice of the input."""
    writes_slice: bool
    """Whether a component writes a slice of the output."""
    initial_rank: int
    rate: float
    ramp: float


class GatedBlock(Block):
    """Every component that the units of one module may have; those with an open gate act.

    With x the real-valued rank that a unit requests, component j of the unit has the gate

        g_j = m_j + (c_j − stop_grad(c_j))        c_j = clip((x − (j − ½)) / ramp + ½, 0, 1)

    where `set_ranks` sets m_j to 1 or 0, so that a component either acts or does not in the forward pass. The gradient
    reaches x through the components within half a `ramp` of the boundary. A closed component keeps its values and its
    optimizer moments but gets no gradient: it drifts for a few steps of momentum and then stays.

    a starts uniform in ±1/√(its length) and b at zero, as in a plain block.
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
        self._unit_ranks: list[int] | None = [0] * layout.units
        """What the gates hold, so that asking for a rank does not wait for the device; None: to be read from them."""

    @property
    def alpha(self) -> Tensor:
        """α `[units]`: the requested rank of each unit over the initial rank."""
        return self.layout.rate * self.theta

    def vectors(self) -> tuple[Tensor, Tensor]:
        layout = self.layout
        requested = layout.initial_rank * self.alpha - self.shift
        boundary = torch.arange(layout.most, device=requested.device) + 0.5
        soft = ((requested.unsqueeze(-1) - boundary) / layout.ramp + 0.5).clamp(0, 1).flatten()
        b = (self.gates + (soft - soft.detach())).unsqueeze(-1) * self.b
        return self._whole(self.a, layout.reads_slice), self._whole(b, layout.writes_slice)

    def _whole(self, part: Tensor, sliced: bool) -> Tensor:
        """Return vectors on the whole module from `part`, whose rows hold one slice each where `sliced`."""
        if not sliced:
            return part
        units, most = self.layout.units, self.layout.most
        own = torch.eye(units, dtype=part.dtype, device=part.device).view(units, 1, units, 1)
        return (own * part.view(units, most, 1, -1)).reshape(self.size, -1)

    @torch.no_grad()
    def set_ranks(self, ranks: list[int], shift: float) -> None:
        """Open the first components of every unit; `shift` is subtracted from requested ranks to meet the budget."""
        opened = torch.arange(self.layout.most).unsqueeze(0) < torch.tensor(ranks).unsqueeze(1)
        self.gates.copy_(opened.flatten().to(self.gates.dtype), non_blocking=True)
        self._unit_ranks = list(ranks)
        self.shift.fill_(shift)
        self.before.copy_(self.alpha)

    @torch.no_grad()
    def clip_alpha(self, largest: float) -> None:
        """Clip α to [0, `largest`]."""
        self.theta.clamp_(0, largest / self.layout.rate)

    @property
    def unit_ranks(self) -> list[int]:
        """Open components of every unit."""
        if self._unit_ranks is None:
            self._unit_ranks = [int(n) for n in self.gates.view(self.layout.units, -1).sum(dim=1).tolist()]
        return self._unit_ranks

    @property
    def rank(self) -> int:
        return sum(self.unit_ranks)

    def restored(self) -> None:
        self._unit_ranks = None

    def deployed(self) -> tuple[Tensor, Tensor]:
        opened = self.gates.bool()
        return self.published_a[opened], self.published_b[opened]

    def compact(self, a: Tensor, b: Tensor) -> Mapping[str, Tensor]:
        """Return `head_<h>.a` and `head_<h>.b` without the zeros, for every head; nothing where modules are units."""
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
        per_head: whether the units of a module with attention heads are the heads; otherwise the module is one unit.
        initial_rank: r₀, the rank of every unit at α = 1, with which training starts.
        alpha_max: largest α; a unit has at most `initial_rank · alpha_max` components, and no more than its dimensions.
        rate: how many times faster than a weight α moves under an optimizer that ignores the gradient's size.
        ramp: width, in ranks, of the slope that replaces the rounding step in the backward pass.
    """

    def __init__(self, *, per_head: bool, initial_rank: int, alpha_max: float, rate: float, ramp: float) -> None:
        self.name = "per_head" if per_head else "plain"
        self.per_head, self.initial_rank, self.alpha_max = per_head, initial_rank, alpha_max
        self.rate, self.ramp = rate, ramp

    def layout(self, shape: ModuleShape) -> Layout:
        """Return how the components of this module are divided among its units."""
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
