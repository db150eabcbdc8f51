"""The adapted linear layer of a pack: one product with the frozen weight, one batched product per factor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from adapad_ray.adapters.families import Block
from adapad_ray.adapters.packs.flat_rows import FlatRows
from adapad_ray.adapters.packs.slot import NotPackableError
from adapad_ray.frozen_linear.base import FrozenLinear


class PassRows:
    """What the packed modules must know of the batch that goes through them."""

    def __init__(self, slots: int, *, expands: bool) -> None:
        self.slots = slots
        self.expands = expands
        """Whether the model can use inputs that are expanded to one entry for every slot."""
        self.count = 0
        """Examples of all slots together."""
        self.generators: Sequence[torch.Generator | None] = [None] * slots
        """Draw the dropout of each slot."""

    def of_slots(self, x: Tensor, module: str) -> tuple[Tensor, bool]:
        """Return `x` with an entry for every example, or one for every slot, first; and whether slots share it.

        An input of one entry has no axis of slots, as the relative positions of DeBERTa: it is expanded.

        Raises:
            NotPackableError: the first axis is not that of the examples.
        """
        if x.shape[0] == self.count:
            return x, False
        if x.shape[0] == 1 and self.expands:
            return x.expand(self.slots, *x.shape[1:]), True
        raise NotPackableError(
            f"{module} reads an input of shape {list(x.shape)} in a pass of {self.slots} slots with {self.count} "
            "examples: its first axis is not that of the examples"
        )


class LiveStack:
    """The learning blocks of consecutive slots on one module. They are of one kind; ranks are padded with zeros."""

    def __init__(self, blocks: Sequence[Sequence[Block]], first: int, rows: FlatRows) -> None:
        slots = range(first, first + len(blocks))
        sample = next(block for of_slot in blocks for block in of_slot)
        self.rank = max(sum(block.size for block in of_slot) for of_slot in blocks)
        self._kind = type(sample)
        self._rows = rows
        self._stacks = {
            name: rows.reserve((self.rank, *p.shape[1:]), slots, by_row=True) for name, p in sample.named_parameters()
        }
        constants = []
        for slot, of_slot in zip(slots, blocks, strict=True):
            start = 0
            for block in of_slot:
                for name, parameter in block.named_parameters():
                    rows.place(slot, parameter, self._stacks[name], slice(start, start + block.size))
                start += block.size
            own = [c for block in of_slot if (c := block.row_constants()) is not None]
            constants.append(torch.cat(own) if own else torch.zeros(0))
        like = max(constants, key=lambda c: c.numel())
        self._constants = None
        if like.numel():
            self._constants = like.new_zeros(len(blocks), self.rank, *like.shape[1:])
            for whole, part in zip(self._constants, constants, strict=True):
                if len(part):
                    whole[: len(part)] = part

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Return A `[slots, rank, d_in]` and B `[slots, rank, d_out]`, differentiable in the stacks."""
        leaves = {name: self._rows.leaf(stack) for name, stack in self._stacks.items()}
        return self._kind.stacked_vectors(leaves, self._constants)


def live_stacks(blocks: Sequence[Sequence[Block]], rows: FlatRows) -> list[LiveStack]:
    """Return the stacks of one module, for neighbouring slots with blocks of the same kind each; empty without blocks.

    Args:
        blocks: what learns in each slot.
    """
    kinds = [(type(of_slot[0]), of_slot[0].kind) if of_slot else None for of_slot in blocks]
    known = next((kind for kind in kinds if kind is not None), None)
    if known is None:
        return []
    starts: list[int] = []
    for slot, kind in enumerate(kinds):
        if slot == 0 or (kind is not None and kind != known):
            starts.append(slot)
        known = kind or known
    ends = [*starts[1:], len(blocks)]
    return [LiveStack(blocks[start:end], start, rows) for start, end in zip(starts, ends, strict=True)]


class PackedLinear(nn.Module):
    """A frozen linear layer with the components of several slots.

        y_s = W₀ x_s + bias + s_s · B_s (A_s x_s)        for every slot s

    Args:
        name: path of the module, for errors.
        frozen: A and B of what acts as published, constants.
        scale: s of every slot, `[slots]`.
        dropout: of every slot.
    """

    def __init__(
        self,
        name: str,
        linear: FrozenLinear,
        live: Sequence[LiveStack],
        frozen: tuple[Tensor, Tensor] | None,
        scale: Tensor,
        dropout: Sequence[float],
        rows: PassRows,
    ) -> None:
        super().__init__()
        self.name, self.linear = name, linear
        self._live, self._frozen, self._rows = live, frozen, rows
        self._scales = {scale.dtype: scale.view(-1, 1, 1)}
        self._dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map `[slots · batch, …, d_in]` to `[slots · batch, …, d_out]`; an input `[1, …]` to `[slots, …]`."""
        x, shared = self._rows.of_slots(x, self.name)
        keep = self._keep(x, shared) if any(self._dropout) else None
        live = self._vectors()
        a, b = (None, None) if live is None else (v.to(x.dtype) for v in live)
        constants = (None, None) if self._frozen is None else tuple(v.to(x.dtype) for v in self._frozen)
        y: Tensor = _PackedUpdate.apply(  # type: ignore[no-untyped-call]
            x, self.linear, a, b, *constants, self._scale(x.dtype), keep
        )
        return y

    def _scale(self, dtype: torch.dtype) -> Tensor:
        """s of every slot, `[slots, 1, 1]`, converted once."""
        if dtype not in self._scales:
            self._scales[dtype] = next(iter(self._scales.values())).to(dtype)
        return self._scales[dtype]

    def _vectors(self) -> tuple[Tensor, Tensor] | None:
        """A `[slots, rank, d_in]` and B `[slots, rank, d_out]` of what learns; None where nothing does."""
        if not self._live:
            return None
        parts = [stack.vectors() for stack in self._live]
        if len(parts) == 1:
            return parts[0]
        rank = max(stack.rank for stack in self._live)
        padded = [[F.pad(v, (0, 0, 0, rank - v.shape[1])) for v in part] for part in parts]
        return torch.cat([a for a, _ in padded]), torch.cat([b for _, b in padded])

    def _keep(self, x: Tensor, shared: bool) -> Tensor:
        """The dropout of the adapter's input: each slot draws what it would draw alone."""
        examples = 1 if shared else x.shape[0] // self._rows.slots
        keep = torch.ones(x.shape, dtype=x.dtype, device=x.device)
        for slot, (dropout, generator) in enumerate(zip(self._dropout, self._rows.generators, strict=True)):
            if dropout and generator is not None:
                shape = (examples, *x.shape[1:])
                kept = torch.rand(shape, generator=generator, device=x.device) >= dropout
                keep[slot * examples : (slot + 1) * examples] = kept.to(x.dtype) / (1 - dropout)
        return keep


class _PackedUpdate(torch.autograd.Function):
    """The same as `_LowRankUpdate` of a lone slot, with a batched product for every product with A or B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        linear: FrozenLinear,
        a: Tensor | None,
        b: Tensor | None,
        frozen_a: Tensor | None,
        frozen_b: Tensor | None,
        scale: Tensor,
        keep: Tensor | None,
    ) -> Tensor:
        y = linear.forward(x)
        a, b = _columns(frozen_a, a), _columns(frozen_b, b)
        seen = _by_slot(x if keep is None else x * keep, len(a))
        z = torch.bmm(seen, a.mT).mul_(scale)
        y.view(len(a), -1, y.shape[-1]).baddbmm_(z, b)
        ctx.save_for_backward(x, a, b, z, scale)
        ctx.linear, ctx.keep = linear, keep
        ctx.frozen = 0 if frozen_a is None else frozen_a.shape[1]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, z, scale = ctx.saved_tensors
        need_x, need_a, need_b = ctx.needs_input_grad[0], ctx.needs_input_grad[2], ctx.needs_input_grad[3]
        grad = _by_slot(grad_y, len(a))
        grad_z = torch.bmm(grad, b.mT).mul_(scale)
        grad_x = grad_a = grad_b = None
        if need_x:
            grad_x = ctx.linear.input_gradient(grad_y)
            if ctx.keep is None:
                grad_x.view(len(a), -1, x.shape[-1]).baddbmm_(grad_z, a)
            else:
                grad_x += torch.bmm(grad_z, a).view_as(x) * ctx.keep
        if need_a:
            seen = _by_slot(x if ctx.keep is None else x * ctx.keep, len(a))
            grad_a = torch.bmm(grad_z[..., ctx.frozen :].mT, seen)
        if need_b:
            grad_b = torch.bmm(z[..., ctx.frozen :].mT, grad)
        return grad_x, None, grad_a, grad_b, None, None, None, None


def _columns(frozen: Tensor | None, live: Tensor | None) -> Tensor:
    """What acts, `[slots, rank, features]`: published components first."""
    if frozen is None or live is None:
        both = live if frozen is None else frozen
        assert both is not None, "a module without components is not packed"
        return both
    return torch.cat([frozen, live], dim=1)


def _by_slot(x: Tensor, slots: int) -> Tensor:
    """`[slots · n, …, features]` as `[slots, rows, features]`."""
    return x.reshape(slots, -1, x.shape[-1])
