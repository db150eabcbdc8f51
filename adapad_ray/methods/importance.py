"""How much a reserve component matters: smoothed importance times smoothed uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adapad_ray.adapters.model import AdaptedModel


class ReserveScores:
    """Per module `score = Ī · Ū` with I = Σ|θ · ∂L/∂θ| over the reserve's parameters.

        Ī ← β Ī + (1 − β) I        Ū ← β Ū + (1 − β) |I − Ī|

    The form is IncreLoRA's (2308.12043) and AdaLoRA's (2303.10512). 2605.10741 combines the same two signals and does
    not print how: the product is our reading. Sums are kept in fp64.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._importance: dict[str, float] = {}
        self._uncertainty: dict[str, float] = {}

    @torch.no_grad()
    def update(self, adapted: AdaptedModel) -> None:
        """Reads the gradients of the reserve lane."""
        names: list[str] = []
        values: list[Tensor] = []
        gradients: list[Tensor] = []
        for name, layer in adapted.layers.items():
            for p in layer.reserve.parameters() if layer.reserve is not None else ():
                if p.grad is not None:
                    names.append(name)
                    values.append(p)
                    gradients.append(p.grad)
        if not names:
            return
        sums = torch.stack(torch._foreach_norm(torch._foreach_mul(values, gradients), 1)).double().tolist()
        totals: dict[str, float] = {}
        for name, value in zip(names, sums, strict=True):
            totals[name] = totals.get(name, 0.0) + value
        for name, total in totals.items():
            mean = self.decay * self._importance.get(name, 0.0) + (1 - self.decay) * total
            spread = self.decay * self._uncertainty.get(name, 0.0) + (1 - self.decay) * abs(total - mean)
            self._importance[name], self._uncertainty[name] = mean, spread

    def value(self, module: str) -> float:
        """Current score; 0 before the first update."""
        return self._importance.get(module, 0.0) * self._uncertainty.get(module, 0.0)

    def forget(self, module: str) -> None:
        """Starts afresh for a new reserve."""
        self._importance.pop(module, None)
        self._uncertainty.pop(module, None)

    def state(self) -> dict[str, Any]:
        """The averages, as JSON."""
        return {"importance": self._importance, "uncertainty": self._uncertainty}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` gave."""
        self._importance = dict(state["importance"])
        self._uncertainty = dict(state["uncertainty"])
