"""The mean of the weights over the last steps before a pause: what half-trained trials are compared by.

While the learning rate is high, the loss of the weights themselves is mostly noise: they jump around the point at which
they would settle. Their mean over the latter half of the steps is near that point, so its loss tells early how the
training ends (averaging instead of decay: 1803.05407). `benchmarks/RESULTS.md` compares both scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

SHARE = 0.5
"""Share of the steps before the pause over which weights are averaged, or fewer where the last pause is nearer."""


class WeightAverage:
    """The running mean of every trained parameter over the steps of one window, which ends at a pause.

    A parameter that is born within the window is averaged from then on.
    """

    def __init__(self) -> None:
        self._until: int | None = None
        self._means: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}

    def begin(self, until: int | None) -> None:
        """Starts the window that ends after optimizer step `until`, unless it is the present one; None: there is
        none."""
        if until != self._until:
            self._until, self._means, self._steps = until, {}, {}

    def wants(self, step: int) -> bool:
        """Whether the weights after `step` optimizer steps count."""
        return self._until is not None and (1 - SHARE) * self._until < step <= self._until

    @torch.no_grad()
    def add(self, named: Mapping[str, nn.Parameter]) -> None:
        """Counts the present values of `named`; what is not among them any more is forgotten."""
        self._means = {name: mean for name, mean in self._means.items() if _fits(mean, named.get(name))}
        self._steps = {name: self._steps.get(name, 0) + 1 if name in self._means else 1 for name in named}
        if self._means:
            weights = [1 / self._steps[name] for name in self._means]
            differences = torch._foreach_sub([named[name].detach() for name in self._means], list(self._means.values()))
            torch._foreach_mul_(differences, weights)
            torch._foreach_add_(list(self._means.values()), differences)
        self._means |= {name: p.detach().clone() for name, p in named.items() if name not in self._means}

    @torch.no_grad()
    def copy_to(self, named: Mapping[str, nn.Parameter]) -> None:
        """Overwrites `named` with their means."""
        for name, mean in self._means.items():
            named[name].copy_(mean)

    def tensors(self) -> dict[str, Tensor]:
        """The means, by parameter name."""
        return self._means

    def meta(self) -> dict[str, Any]:
        """The rest of the state, as JSON."""
        return {"until": self._until, "steps": self._steps}

    def load(self, meta: Mapping[str, Any], tensors: Mapping[str, Tensor], named: Mapping[str, nn.Parameter]) -> None:
        """Restores the results of `meta` and `tensors`."""
        self._until, self._steps = meta["until"], {name: int(steps) for name, steps in meta["steps"].items()}
        self._means = {}
        self.absorb(tensors, named)

    def absorb(self, tensors: Mapping[str, Tensor], named: Mapping[str, nn.Parameter]) -> None:
        """Replaces the means of those parameters that `tensors` contains."""
        self._means |= {name: mean.to(named[name].device, copy=True) for name, mean in tensors.items()}


def _fits(mean: Tensor, parameter: nn.Parameter | None) -> bool:
    return parameter is not None and mean.shape == parameter.shape
