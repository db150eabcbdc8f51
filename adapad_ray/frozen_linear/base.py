"""What an adapter needs of the frozen linear layer beneath it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn


class FrozenLinear(ABC):
    """One frozen layer `y = W₀x + bias` with W₀ `[d_out, d_in]`, whatever the form in which W₀ is stored.

    A new form (quantised, sharded) is a subclass in a file of its own and an entry in `dispatch.FORMS`.

    Args:
        module: the backbone's own module. It computes the forward pass, so its rounding is kept.
    """

    fan_in_fan_out: ClassVar[bool] = False
    """PEFT's name for a weight that is stored as `[d_in, d_out]`."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @classmethod
    def accepts(cls, module: nn.Module) -> bool:
        """Whether this form can read a module of a class that `dispatch.FORMS` maps to it."""
        return True

    @property
    @abstractmethod
    def in_features(self) -> int:
        """d_in."""

    @property
    @abstractmethod
    def out_features(self) -> int:
        """d_out."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype in which the layer computes."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the layer computes."""

    @property
    def parameter_count(self) -> int:
        """Logical parameters, bias included; a form that packs its weight overrides this."""
        return sum(p.numel() for p in self.module.parameters())

    def forward(self, x: Tensor) -> Tensor:
        """Map `[…, d_in]` to `[…, d_out]`: W₀x + bias."""
        y: Tensor = self.module(x)
        return y

    @abstractmethod
    def input_gradient(self, grad_y: Tensor) -> Tensor:
        """Return the gradient with respect to x, `grad_y W₀`: `[…, d_out]` to `[…, d_in]`."""

    @abstractmethod
    def weight(self) -> Tensor | None:
        """Return W₀ as a dense `[d_out, d_in]` tensor, or None where the weight cannot be read."""
