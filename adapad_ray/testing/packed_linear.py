"""Linear layers in 8 bits whose weight cannot be read, as those of a quantising package that is not known here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapad_ray.models import Backbone
from adapad_ray.models.target_modules import layer_prefixes


class PackedLinear(nn.Module):
    """A linear layer whose forward and backward pass dequantise its codes; there is no `weight`.

    Args:
        dense: its weight is rounded to 255 steps for every row, in place, so that both layers compute the same.
    """

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = dense.in_features, dense.out_features, dense.bias
        scales = dense.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        codes = (dense.weight.detach() / scales).round().to(torch.int8)
        dense.weight.data = codes * scales
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[…, d_in]` to `[…, d_out]`."""
        y: Tensor = _Product.apply(x, self.codes, self.scales)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias


class _Product(torch.autograd.Function):
    """x Wᵀ with W = codes · scales."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scales)
        return F.linear(x, codes * scales)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        codes, scales = ctx.saved_tensors
        return grad_y @ (codes * scales), None, None


def pack_layers(backbone: Backbone) -> None:
    """Replace the linear layers of the repeated layers by packed ones, in place."""
    layers = layer_prefixes(backbone.model)
    for path, module in list(backbone.model.named_modules()):
        if type(module) is nn.Linear and path.startswith(layers):
            backbone.model.set_submodule(path, PackedLinear(module))
