"""Frozen linear layers whose products are computed in bf16, for activations in fp32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from adapad_ray.frozen_linear.dense import DenseLinear, TransposedLinear


class MixedLinear(nn.Linear):
    """A linear layer that holds its weight in bf16, casts its input for the product, and adds an fp32 bias.

    A weight in fp32, as full fine-tuning trains it, is cast in every forward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        return _product(x, self.weight, self.bias)


class MixedConv1D(Conv1D):  # type: ignore[misc]
    """The same for GPT-2's layer, whose weight is `[d_in, d_out]`."""

    def forward(self, x: Tensor) -> Tensor:
        return _product(x, self.weight.T, self.bias)


class MixedDense(DenseLinear):
    """The form of `MixedLinear`."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def input_gradient(self, grad_y: Tensor) -> Tensor:
        return (grad_y.to(torch.bfloat16) @ self.module.weight).to(grad_y.dtype)


class MixedTransposed(TransposedLinear):
    """The form of `MixedConv1D`."""

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def input_gradient(self, grad_y: Tensor) -> Tensor:
        return (grad_y.to(torch.bfloat16) @ self.module.weight.T).to(grad_y.dtype)


_MIXED: Mapping[type[nn.Module], type[nn.Module]] = {nn.Linear: MixedLinear, Conv1D: MixedConv1D}


def hold_in_bf16(model: nn.Module, skip: Collection[str] = ()) -> None:
    """Turn the linear layers of a frozen fp32 model into mixed ones, in place.

    Left as they are: the modules in `skip`, and layers that share their weight with another module, such as an output
    embedding that is tied to the input's.
    """
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    for path, module in model.named_modules():
        mixed = _MIXED.get(type(module))
        if mixed is not None and path not in skip and owners[id(module.weight)] == 1:
            module.__class__ = mixed  # keeps hooks, names and references
            weight = module.weight.detach().to(torch.bfloat16)  # type: ignore[operator]
            module.weight = nn.Parameter(weight, requires_grad=False)


def cpu_has_bf16_products() -> bool:
    """Whether this CPU has instructions for bf16 products; without them bf16 is slower than fp32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = F.linear(x.to(torch.bfloat16), weight.to(torch.bfloat16)).to(x.dtype)
    return y if bias is None else y.add_(bias)
