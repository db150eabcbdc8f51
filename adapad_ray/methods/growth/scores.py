"""Scores of modules that may grow: smoothed importance times smoothed uncertainty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from adapad_ray.adapters.model import AdaptedModel


class SmoothedScores:
    """Smoothed importance I of a module times its smoothed deviation.

        Ī ← β Ī + (1 − β) I        Ū ← β Ū + (1 − β) |I − Ī / (1 − βⁿ)|        score = Ī Ū / (1 − βⁿ)²

    with n the number of updates of this module. The form is that of IncreLoRA (2308.12043) and AdaLoRA (2303.10512).
    The correction by 1 − βⁿ is not published; this project adds it because a score would otherwise mostly measure the
    age of a module. Averages are kept in fp64.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._importance: dict[str, float] = {}
        self._uncertainty: dict[str, float] = {}
        self._updates: dict[str, int] = {}

    def add(self, importances: Mapping[str, float]) -> None:
        """Updates the averages with the importances of one step, by module."""
        for name, importance in importances.items():
            self._updates[name] = self._updates.get(name, 0) + 1
            mean = self.decay * self._importance.get(name, 0.0) + (1 - self.decay) * importance
            deviation = abs(importance - mean / self._correction(name))
            spread = self.decay * self._uncertainty.get(name, 0.0) + (1 - self.decay) * deviation
            self._importance[name], self._uncertainty[name] = mean, spread

    def _correction(self, module: str) -> float:
        return 1.0 - self.decay ** self._updates[module]

    def value(self, module: str) -> float:
        """Current score; 0 before the first update."""
        if module not in self._updates:
            return 0.0
        return self._importance[module] * self._uncertainty[module] / self._correction(module) ** 2

    def forget(self, module: str) -> None:
        """Drops the averages of a module."""
        self._importance.pop(module, None)
        self._uncertainty.pop(module, None)
        self._updates.pop(module, None)

    def state(self) -> dict[str, Any]:
        """The averages, as JSON."""
        return {"importance": self._importance, "uncertainty": self._uncertainty, "updates": self._updates}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        self._importance = dict(state["importance"])
        self._uncertainty = dict(state["uncertainty"])
        self._updates = dict(state["updates"])


class ReserveScores(SmoothedScores):
    """Scores of reserves, with I = Σ|θ · ∂L/∂θ| over a reserve's parameters.

    2605.10741 combines importance and variability without publishing how; the product is this project's choice.
    """

    @torch.no_grad()
    def update(self, adapted: AdaptedModel) -> None:
        """Updates the scores from the gradients of the reserve lane."""
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
        self.add(totals)
