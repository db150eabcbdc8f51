"""Frozen linear layers whose weight is quantised by bitsandbytes or torchao, or cannot be read."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from adapad_ray.frozen_linear.base import FrozenLinear

_REPACKS = "support_avx512bf16_for_cpu"
"""Attribute of bitsandbytes' 4-bit layers."""


class OpaqueLinear(FrozenLinear):
    """A layer whose weight cannot be read: the gradient with respect to x is that of the layer's own backward pass."""

    module: Any

    @property
    def in_features(self) -> int:
        return int(self.module.in_features)

    @property
    def out_features(self) -> int:
        return int(self.module.out_features)

    @property
    def dtype(self) -> torch.dtype:
        """Of the first tensor of floating-point numbers, such as a scale."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return next((t.dtype for t in tensors if t.is_floating_point()), torch.get_default_dtype())

    @property
    def device(self) -> torch.device:
        tensor: Tensor = next(iter([*self.module.parameters(), *self.module.buffers()]))
        return tensor.device

    @property
    def parameter_count(self) -> int:
        bias = getattr(self.module, "bias", None)
        return self.in_features * self.out_features + (0 if bias is None else bias.numel())

    def input_gradient(self, grad_y: Tensor) -> Tensor:
        x = grad_y.new_zeros((*grad_y.shape[:-1], self.in_features), requires_grad=True)
        with torch.enable_grad():  # the gradient of a linear map is the same at every x
            (gradient,) = torch.autograd.grad(self.module(x), x, grad_y)
        return gradient

    def weight(self) -> Tensor | None:
        return None


class QuantizedLinear(OpaqueLinear):
    """A layer whose weight can be dequantised."""

    def input_gradient(self, grad_y: Tensor) -> Tensor:
        return grad_y @ self.weight().to(grad_y.dtype)

    def weight(self) -> Tensor:
        raise NotImplementedError


class FourBitLinear(QuantizedLinear):
    """`bitsandbytes.nn.Linear4bit` (nf4, fp4)."""

    @property
    def dtype(self) -> torch.dtype:
        """That of products and of the dequantised weight."""
        state = getattr(self.module.weight, "quant_state", None)
        dtype: torch.dtype = self.module.compute_dtype or (self.module.weight.dtype if state is None else state.dtype)
        return dtype

    def weight(self) -> Tensor:
        packed = self.module.weight
        dense: Tensor = _bitsandbytes().dequantize_4bit(packed.data, packed.quant_state)
        return dense


class EightBitLinear(QuantizedLinear):
    """`bitsandbytes.nn.Linear8bitLt` (LLM.int8): the activations are quantised too, in the forward pass alone."""

    @property
    def dtype(self) -> torch.dtype:
        """Products are in fp16 whatever the input."""
        return torch.float16

    def weight(self) -> Tensor:
        state = self.module.state  # holds the weight from the first forward pass on
        packed = self.module.weight if state.CB is None else state.CB
        scales = self.module.weight.SCB if state.SCB is None else state.SCB
        dense: Tensor = _bitsandbytes().int8_vectorwise_dequant(packed.data, scales)
        return dense


class TensorLinear(QuantizedLinear):
    """An `nn.Linear` with a quantised subclass of Tensor as its weight, as torchao makes it (int8, fp8)."""

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.module.weight.dtype
        return dtype

    def weight(self) -> Tensor:
        dense: Tensor = self.module.weight.dequantize()
        return dense


def logical_size(parameter: Tensor) -> int:
    """Return how many numbers a parameter stands for, which packs several into one where it has 4 bits."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(torch.Size(state.shape).numel())


def stored_quantization(model: nn.Module) -> str | None:
    """Return what has quantised a model, as its configuration says, such as `bitsandbytes`; None for a dense model."""
    settings: Any = getattr(model.config, "quantization_config", None)
    if settings is None:
        return None
    method = settings.get("quant_method") if isinstance(settings, dict) else settings.quant_method
    return str(getattr(method, "value", method))


def stored_bits(model: nn.Module) -> int | None:
    """Return the bits of a quantised weight, as a model's configuration says; None for dense or unknown ones."""
    settings: Any = getattr(model.config, "quantization_config", None)
    if settings is None:
        return None
    if not isinstance(settings, dict):
        settings = settings.to_dict()
    sizes = {4: settings.get("load_in_4bit"), 8: settings.get("load_in_8bit"), settings.get("bits"): True}
    return next((bits for bits, chosen in sizes.items() if bits and chosen), None)


def keep_products_exact(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on a CPU with bf16 products, in place.

    It does so in the first pass without gradients. Its products are then in bf16, whatever the dtype, have no gradient,
    and the scales of the weight have been rounded.
    """
    for module in model.modules():
        if hasattr(module, _REPACKS):
            setattr(module, _REPACKS, False)


def _bitsandbytes() -> Any:
    return importlib.import_module("bitsandbytes.functional")
