"""Frozen fp32 layers whose products are computed in bf16 while a model trains.

Evaluation and generation, which run in torch's inference mode, use the fp32 weight. So the model that is measured is
the one that an exported adapter gives on the original backbone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from adapad_ray.frozen_linear.dense import DenseLinear, TransposedLinear

COPY = "weight_bf16"
"""Name of the bf16 copy of a layer's weight. It is a parameter, so that workers share it, but part of no count."""


class MixedLinear(nn.Linear):
    """A linear layer with a bf16 copy of its weight; input and product are cast, and the fp32 bias is added.

    A weight that learns, as in full fine-tuning, is cast in every pass instead.
    """

    weight_bf16: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():
            return super().forward(x)
        weight = self.weight.to(torch.bfloat16) if self.weight.requires_grad else self.weight_bf16
        return _product(x, weight, self.bias)


class MixedConv1D(Conv1D):  # type: ignore[misc]
    """The same for GPT-2's layer, whose weight is `[d_in, d_out]`."""

    weight_bf16: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_inference_mode_enabled():
            y: Tensor = super().forward(x)
            return y
        weight = self.weight.to(torch.bfloat16) if self.weight.requires_grad else self.weight_bf16
        return _product(x, weight.T, self.bias)


class MixedDense(DenseLinear):
    """The form of `MixedLinear`."""

    module: MixedLinear

    @property
    def parameter_count(self) -> int:
        return super().parameter_count - self.module.weight_bf16.numel()

    def input_gradient(self, grad_y: Tensor) -> Tensor:
        return (grad_y.to(torch.bfloat16) @ self.module.weight_bf16).to(grad_y.dtype)


class MixedTransposed(TransposedLinear):
    """The form of `MixedConv1D`."""

    module: MixedConv1D

    @property
    def parameter_count(self) -> int:
        return super().parameter_count - self.module.weight_bf16.numel()

    def input_gradient(self, grad_y: Tensor) -> Tensor:
        return (grad_y.to(torch.bfloat16) @ self.module.weight_bf16.T).to(grad_y.dtype)


_MIXED: Mapping[type[nn.Module], type[nn.Module]] = {nn.Linear: MixedLinear, Conv1D: MixedConv1D}


def use_bf16_products(model: nn.Module, skip: Collection[str] = ()) -> None:
    """Turn the linear layers of a frozen fp32 model into mixed ones, in place.

    Left as they are: the modules in `skip`, and layers that share their weight with another module, such as an output
    embedding that is tied to the input's.
    """
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    for path, module in model.named_modules():
        mixed = _MIXED.get(type(module))
        dense = mixed is not None and type(module.weight) is nn.Parameter  # torchao keeps the module's class
        if mixed is not None and dense and path not in skip and owners[id(module.weight)] == 1:
            copy = module.weight.detach().to(torch.bfloat16)  # type: ignore[operator]
            module.__class__ = mixed  # keeps hooks, names and references
            module.register_parameter(COPY, nn.Parameter(copy, requires_grad=False))


def use_full_products(model: nn.Module) -> None:
    """Turn mixed layers back into ordinary ones, in place."""
    ordinary = {mixed: kind for kind, mixed in _MIXED.items()}
    for module in model.modules():
        if type(module) in ordinary:
            module.__class__ = ordinary[type(module)]
            delattr(module, COPY)


def cpu_has_bf16_products() -> bool:
    """Whether this CPU has instructions for bf16 products; without them bf16 is slower than fp32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def best_precision(dtype: str, *, on_gpu: bool) -> Literal["full", "mixed"]:
    """Mixed for a backbone in fp32 where the hardware has bf16 products, as all GPUs are taken to have; else full."""
    return "mixed" if dtype == "float32" and (on_gpu or cpu_has_bf16_products()) else "full"


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = F.linear(x.to(torch.bfloat16), weight).to(x.dtype)
    return y if bias is None else y.add_(bias)
