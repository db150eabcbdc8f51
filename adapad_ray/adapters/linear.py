"""The adapted linear layer: a frozen `nn.Linear` plus the components that act in the current lane."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from adapad_ray.adapters.families import Block
from adapad_ray.adapters.lane import Lane
from adapad_ray.budget import ModuleShape


class _LowRankUpdate(torch.autograd.Function):
    """y = W₀x + bias + s · B(A x), with gradients for the learning columns of A and B and for x alone.

    Plain autograd gives the same numbers (a test compares them); this form adds the update in place, in the forward
    and in the gradient of x, and computes no gradient of a frozen column.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        frozen: int,
        scaling: float,
        keep: Tensor | None,
    ) -> Tensor:
        y = F.linear(x, weight, bias)
        z = F.linear(x if keep is None else x * keep, a)
        y.view(-1, y.shape[-1]).addmm_(z.view(-1, z.shape[-1]), b, alpha=scaling)
        ctx.save_for_backward(x, weight, a, b, z)
        ctx.frozen, ctx.scaling, ctx.keep = frozen, scaling, keep
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, z = ctx.saved_tensors
        need_x, need_a, need_b = ctx.needs_input_grad[0], ctx.needs_input_grad[3], ctx.needs_input_grad[4]
        grad_z = F.linear(grad_y, b).mul_(ctx.scaling)
        grad_x = grad_a = grad_b = None
        if need_x:
            grad_x = grad_y @ weight
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
        return grad_x, None, None, grad_a, grad_b, None, None, None


class AdaptedLinear(nn.Module):
    """A frozen linear layer with rank-1 components in blocks.

        y = W₀x + bias + s · B_pub (A_pub x) + s · B_live (A_live x)

    Published blocks below the lane's own act as constants: their weights get no gradient, the gradient with respect to
    x flows through everything that acts, and successors do not act (2605.10741; for squared loss this is the deflation
    target `Y - Σ_{j<k} b_j a_jᵀ X`).
    """

    def __init__(self, base: nn.Linear, shape: ModuleShape, scaling: float) -> None:
        super().__init__()
        self.base = base
        self.shape = shape
        self.scaling = scaling
        """Factor s of this module; independent of its rank but where a method changes it."""
        self.dropout = 0.0
        self.blocks = nn.ModuleList()
        self.reserve: Block | None = None
        self._lane: Lane = Lane.prefix(0)
        self._generator: torch.Generator | None = None

    @property
    def rank(self) -> int:
        """Active components, those apart that a block holds back."""
        return sum(block.rank for block in self.active())

    def active(self) -> list[Block]:
        """The active blocks in the order of their activation."""
        return list(self.blocks)  # type: ignore[arg-type]

    def use(self, lane: Lane, generator: torch.Generator | None = None) -> None:
        """Chooses what acts in the coming forward passes; `generator` draws the dropout of the adapter's input."""
        self._lane = lane
        self._generator = generator

    def scale(self, lane: Lane) -> float:
        """Factor s on the update of this module in `lane`."""
        return self.scaling * lane.scale

    def deployed(self, lane: Lane) -> list[tuple[Block, Tensor, Tensor]]:
        """Every block that acts in `lane` with its `(a [n, d_in], b [n, d_out])`: published values, or live ones where
        it learns in this lane."""
        acting = [(k, block) for k, block in enumerate(self.active(), start=1) if lane.acts(k)]
        return [(block, *(block.deployed() if k <= lane.frozen else block.vectors())) for k, block in acting]

    def vectors(self, lane: Lane) -> tuple[Tensor, Tensor]:
        """`(A [rank, d_in], B [rank, d_out])` of what is deployed where `lane` is, the scale not applied."""
        chosen = self.deployed(lane)
        device = self.base.weight.device
        if not chosen:
            return (
                torch.zeros(0, self.shape.in_features, device=device),
                torch.zeros(0, self.shape.out_features, device=device),
            )
        return torch.cat([a for _, a, _ in chosen]), torch.cat([b for _, _, b in chosen])

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[…, d_in]` to `[…, d_out]` through what acts in the current lane."""
        columns, frozen = self._columns()
        if not columns:
            return F.linear(x, self.base.weight, self.base.bias)
        a = columns[0][0] if len(columns) == 1 else torch.cat([c[0] for c in columns])
        b = columns[0][1] if len(columns) == 1 else torch.cat([c[1] for c in columns])
        keep = None
        if self.dropout and self._generator is not None:
            kept = torch.rand(x.shape, generator=self._generator, device=x.device) >= self.dropout
            keep = kept.to(x.dtype) / (1 - self.dropout)
        weight, bias = self.base.weight, self.base.bias
        y: Tensor = _LowRankUpdate.apply(  # type: ignore[no-untyped-call]
            x, weight, bias, a.to(x.dtype), b.to(x.dtype), frozen, self.scale(self._lane), keep
        )
        return y

    def _columns(self) -> tuple[list[tuple[Tensor, Tensor]], int]:
        """Vectors of the acting blocks, and the number of leading columns that are constants."""
        lane, blocks = self._lane, self.active()
        constants = blocks[: lane.frozen]
        columns = [(block.published_a, block.published_b) for block in constants]
        columns += [blocks[k - 1].vectors() for k in lane.live if k <= len(blocks)]
        if lane.reserve and self.reserve is not None:
            columns.append(self.reserve.vectors())
        return columns, sum(block.size for block in constants)
