"""The adapted linear layer: a frozen linear layer plus the components that act in the selected lane."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from adapad_ray.adapters.families import Block
from adapad_ray.adapters.lane import Lane
from adapad_ray.budget import ModuleShape
from adapad_ray.frozen_linear.base import FrozenLinear
from adapad_ray.frozen_linear.dispatch import frozen_linear


class _LowRankUpdate(torch.autograd.Function):
    """y = W₀x + bias + s · B(A x), with gradients for the learning columns of A and B and for x alone.

    Plain autograd gives the same numbers (a test compares them). This form adds the update in place, in the forward
    pass and in the gradient of x, and computes no gradient of a frozen column.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        linear: FrozenLinear,
        a: Tensor,
        b: Tensor,
        frozen: int,
        scaling: float,
        keep: Tensor | None,
    ) -> Tensor:
        y = linear.forward(x)
        z = F.linear(x if keep is None else x * keep, a)
        y.view(-1, y.shape[-1]).addmm_(z.view(-1, z.shape[-1]), b, alpha=scaling)
        ctx.save_for_backward(x, a, b, z)
        ctx.linear, ctx.frozen, ctx.scaling, ctx.keep = linear, frozen, scaling, keep
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, z = ctx.saved_tensors
        need_x, need_a, need_b = ctx.needs_input_grad[0], ctx.needs_input_grad[2], ctx.needs_input_grad[3]
        grad_z = F.linear(grad_y, b).mul_(ctx.scaling)
        grad_x = grad_a = grad_b = None
        if need_x:
            grad_x = ctx.linear.input_gradient(grad_y)
            if ctx.keep is None:
                grad_x.view(-1, x.shape[-1]).addmm_(grad_z.view(-1, a.shape[0]), a)
            else:
                grad_x += (grad_z @ a) * ctx.keep
        if need_a or need_b:
            live_z, live_grad = z[..., ctx.frozen :], grad_z[..., ctx.frozen :]
            width = a.shape[0] - ctx.frozen
            grad_a, grad_b = torch.zeros_like(a), torch.zeros_like(b)
            seen = x if ctx.keep is None else x * ctx.keep
            flat_x, flat_y = seen.reshape(-1, x.shape[-1]), grad_y.reshape(-1, grad_y.shape[-1])
            torch.mm(live_grad.reshape(-1, width).T, flat_x, out=grad_a[ctx.frozen :])
            torch.mm(live_z.reshape(-1, width).T, flat_y, out=grad_b[ctx.frozen :]).mul_(ctx.scaling)
        return grad_x, None, grad_a, grad_b, None, None, None


class AdaptedLinear(nn.Module):
    """A frozen linear layer with rank-1 components in blocks.

        y = W₀x + bias + s · B_pub (A_pub x) + s · B_live (A_live x)

    Published blocks below the lane's own are constants: their weights get no gradient, while the gradient with respect
    to x flows through everything that acts. Later blocks do not act (2605.10741; for squared loss this is the deflation
    target `Y - Σ_{j<k} b_j a_jᵀ X`).

    Args:
        base: the frozen module, of a class that `frozen_linear` accepts.
        shape: its path and sizes.
        scaling: factor s of this module.

    Raises:
        BadRequestError: the class of `base` is not supported.
    """

    def __init__(self, base: nn.Module, shape: ModuleShape, scaling: float) -> None:
        super().__init__()
        self.base = base
        self.linear = frozen_linear(base, shape.name)
        self.shape = shape
        self.scaling = scaling
        """Factor s of this module, whatever its rank, unless the method changes it."""
        self.dropout = 0.0
        self.blocks = nn.ModuleList()
        self.reserve: Block | None = None
        self.constants: dict[torch.dtype, tuple[Tensor, Tensor]] | None = None
        """A and B of what acts, by dtype, while they do not change (see `TrainableModel.constant`)."""
        self._lane: Lane = Lane.prefix(0)
        self._generator: torch.Generator | None = None

    @property
    def rank(self) -> int:
        """Active components, without those that a block's gates close."""
        return sum(block.rank for block in self.active())

    def active(self) -> list[Block]:
        """Return the active blocks in the order of their activation."""
        return list(self.blocks)  # type: ignore[arg-type]

    def live(self, lane: Lane) -> Iterator[Block]:
        """Yield the blocks that learn in `lane`."""
        active = self.active()
        for k in lane.live:
            if k <= len(active):
                yield active[k - 1]
        if lane.reserve and self.reserve is not None:
            yield self.reserve

    def acts_in(self, lane: Lane) -> bool:
        """Whether this module differs from the frozen layer in `lane`; where it does not, it draws no dropout."""
        return bool(self.active()[: lane.frozen]) or any(True for _ in self.live(lane))

    def named_blocks(self, reserve: str) -> dict[str, Block]:
        """Return the active blocks by their number, and the reserve, if there is one, as `reserve`."""
        named = {str(k): block for k, block in enumerate(self.active(), start=1)}
        return named if self.reserve is None else named | {reserve: self.reserve}

    def use(self, lane: Lane, generator: torch.Generator | None = None) -> None:
        """Select what acts in the next forward passes; `generator` draws the dropout of the adapter's input."""
        self._lane = lane
        self._generator = generator

    def scale(self, lane: Lane) -> float:
        """Return the factor s on the update of this module in `lane`."""
        return self.scaling * lane.scale

    def deployed(self, lane: Lane) -> list[tuple[Block, Tensor, Tensor]]:
        """Return every block that acts in `lane` with its `(a [n, d_in], b [n, d_out])`.

        Values are the live ones where the block learns in this lane, and the published ones elsewhere.
        """
        acting = [(k, block) for k, block in enumerate(self.active(), start=1) if lane.acts(k)]
        return [(block, *(block.deployed() if k <= lane.frozen else block.vectors())) for k, block in acting]

    def vectors(self, lane: Lane) -> tuple[Tensor, Tensor]:
        """Return `(A [rank, d_in], B [rank, d_out])` deployed for `lane`, without the scale."""
        deployed = self.deployed(lane)
        device = self.linear.device
        if not deployed:
            return (
                torch.zeros(0, self.shape.in_features, device=device),
                torch.zeros(0, self.shape.out_features, device=device),
            )
        return torch.cat([a for _, a, _ in deployed]), torch.cat([b for _, _, b in deployed])

    def compact(self, lane: Lane) -> dict[str, Tensor]:
        """Return what `vectors` holds in the family's own form, the scale folded in, as fp32 tensors on the CPU.

        The components of all blocks stand one below another. Empty where the vectors themselves are that form.
        """
        parts: dict[str, list[Tensor]] = {}
        for block, *vectors in self.deployed(lane):
            a, b = (v.detach().float().cpu().contiguous() for v in vectors)
            for key, value in block.compact(a, b * self.scale(lane)).items():
                parts.setdefault(key, []).append(value)
        return {key: torch.cat(values).contiguous() for key, values in parts.items()}

    def forward(self, x: Tensor) -> Tensor:
        """Map `[…, d_in]` to `[…, d_out]` through what acts in the selected lane."""
        if self.constants is not None:
            return self._constant_forward(x, self.constants)
        columns, frozen = self._predecessors_and_learning()
        if not columns:
            return self.linear.forward(x)
        a, b = _stacked(columns)
        keep = None
        if self.dropout and self._generator is not None:
            kept = torch.rand(x.shape, generator=self._generator, device=x.device) >= self.dropout
            keep = kept.to(x.dtype) / (1 - self.dropout)
        y: Tensor = _LowRankUpdate.apply(  # type: ignore[no-untyped-call]
            x, self.linear, a.to(x.dtype), b.to(x.dtype), frozen, self.scale(self._lane), keep
        )
        return y

    def _constant_forward(self, x: Tensor, constants: dict[torch.dtype, tuple[Tensor, Tensor]]) -> Tensor:
        """The same as `forward`, without gradients; what acts is brought together once."""
        if x.dtype not in constants:
            columns, _ = self._predecessors_and_learning()
            if not columns:
                return self.linear.forward(x)
            a, b = _stacked(columns)
            constants[x.dtype] = a.detach().to(x.dtype), b.detach().to(x.dtype)
        a, b = constants[x.dtype]
        y = self.linear.forward(x)
        y.view(-1, y.shape[-1]).addmm_(F.linear(x, a).view(-1, len(a)), b, alpha=self.scale(self._lane))
        return y

    def _predecessors_and_learning(self) -> tuple[list[tuple[Tensor, Tensor]], int]:
        """Return the vectors of the acting blocks, and the number of leading columns that are constants."""
        lane = self._lane
        constants = self.active()[: lane.frozen]
        columns = [block.published() for block in constants]
        columns += [block.vectors() for block in self.live(lane)]
        return columns, sum(block.size for block in constants)


def _stacked(columns: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The vectors of several blocks as one A `[rank, d_in]` and one B `[rank, d_out]`."""
    if len(columns) == 1:
        return columns[0]
    return torch.cat([a for a, _ in columns]), torch.cat([b for _, b in columns])
