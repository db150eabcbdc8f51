"""Frozen linear layers with a dense weight: `nn.Linear`, and the transposed `Conv1D` of GPT-2."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adapad_ray.frozen_linear.base import FrozenLinear


class DenseLinear(FrozenLinear):
    """A weight `[d_out, d_in]`, as in `nn.Linear`."""

    module: nn.Linear

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        # Some quantisers keep the module's class and replace its weight by a subclass of Tensor.
        return type(module.weight) in (nn.Parameter, Tensor)

    @property
    def in_features(self) -> int:
        return self.module.in_features

    @property
    def out_features(self) -> int:
        return self.module.out_features

    @property
    def dtype(self) -> torch.dtype:
        return self.module.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.module.weight.device

    def input_gradient(self, grad_y: Tensor) -> Tensor:
        return grad_y @ self.module.weight

    def weight(self) -> Tensor:
        return self.module.weight.detach()


class TransposedLinear(DenseLinear):
    """A weight `[d_in, d_out]`, as in `transformers.pytorch_utils.Conv1D`."""

    fan_in_fan_out = True

    @property
    def in_features(self) -> int:
        return self.module.weight.shape[0]

    @property
    def out_features(self) -> int:
        return self.module.weight.shape[1]

    def input_gradient(self, grad_y: Tensor) -> Tensor:
        return grad_y @ self.module.weight.T

    def weight(self) -> Tensor:
        return self.module.weight.detach().T
