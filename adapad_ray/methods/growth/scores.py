"""Scores of modules that may grow: of trained reserves, or of the gradients of the frozen weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from adapad_ray.adapters.families import ProbeBlock
from adapad_ray.adapters.model import AdaptedModel


class Scores(Protocol):
    """What a growing method saves of its scores."""

    def state(self) -> dict[str, Any]:
        """Return the scores' state, as JSON."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""


class PendingNumbers:
    """Numbers of modules that stay on the device until a decision needs them, so that no step waits for them."""

    def __init__(self) -> None:
        self._steps: list[tuple[Sequence[str], Tensor]] = []

    def add(self, modules: Sequence[str], numbers: Tensor) -> None:
        """Keeps the numbers of one step, one for each entry of `modules`."""
        self._steps.append((modules, numbers.double()))

    def read(self) -> list[dict[str, float]]:
        """Returns the numbers of every step by module, in one transfer; those of the same module are added up."""
        steps, self._steps = self._steps, []
        if not steps:
            return []
        numbers = iter(torch.cat([of_step for _, of_step in steps]).tolist())
        sums: list[dict[str, float]] = []
        for modules, _ in steps:
            sums.append({})
            for module in modules:
                sums[-1][module] = sums[-1].get(module, 0.0) + next(numbers)
        return sums

    def add_to(self, totals: dict[str, float]) -> None:
        """Adds the numbers of every step to `totals`, by module."""
        for of_step in self.read():
            for module, number in of_step.items():
                totals[module] = totals.get(module, 0.0) + number


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
        self._pending = PendingNumbers()

    def add(self, modules: Sequence[str], importances: Tensor) -> None:
        """Updates the averages with the importances of one step; those of the same module are added up."""
        self._pending.add(modules, importances)

    def _read(self) -> None:
        for importances in self._pending.read():
            self._update(importances)

    def _update(self, importances: Mapping[str, float]) -> None:
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
        self._read()
        if module not in self._updates:
            return 0.0
        return self._importance[module] * self._uncertainty[module] / self._correction(module) ** 2

    def forget(self, module: str) -> None:
        """Drops the averages of a module."""
        self._read()
        self._importance.pop(module, None)
        self._uncertainty.pop(module, None)
        self._updates.pop(module, None)

    def state(self) -> dict[str, Any]:
        """The averages, as JSON."""
        self._read()
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
        self.add(names, torch.stack(torch._foreach_norm(torch._foreach_mul(values, gradients), 1)))


class GradientScores:
    """Scores of components that do not exist yet, from the loss gradient G of each frozen weight over n batches.

        M = d² · ‖Ḡ‖ · SNR        SNR = ‖Ḡ‖² / (Var(G) / n)        score of the module's next component j = M σ_j / σ_1

    Ḡ is the mean over the batches, Var(G) the summed variance of its entries, and σ are its singular values; all are
    measured on sketches (see `ProbeBlock`). A large gradient alone is common near the loss, where batches disagree
    about its direction. d is the share of the layers that a change in the module passes through (`depths`): a gradient
    does not show what later layers can make of a change. Not published; `benchmarks/RESULTS.md` compares it with other
    scores.

    Args:
        depths: module → d; 1 for modules that it leaves out.
        skip: first batches that are not used, because the task head is still untrained.
    """

    def __init__(self, depths: Mapping[str, float] | None = None, skip: int = 0) -> None:
        self.depths = depths or {}
        self.skip = skip
        self._seen = 0
        self._squares: dict[str, float] = {}
        self._batches: dict[str, int] = {}
        self._pending = PendingNumbers()
        """Squared norms of sketches."""

    def update(self, adapted: AdaptedModel) -> None:
        """Takes the sketches of the last backward pass of the reserve lane."""
        probes = _probes(adapted)
        used = self._seen >= self.skip
        sketches = {name: sketch for name, probe in probes.items() if (sketch := probe.take(add=used)) is not None}
        self._seen += bool(sketches)
        if not sketches or not used:
            return
        norms = torch.stack(torch._foreach_norm(list(sketches.values())))
        self._pending.add(list(sketches), norms.double().square())
        for name in sketches:
            self._batches[name] = self._batches.get(name, 0) + 1

    def of_components(self, adapted: AdaptedModel) -> dict[str, list[float]]:
        """Module → the scores of its next components, in descending order; 0 before two batches."""
        self._pending.add_to(self._squares)
        sums = _on_host({name: probe.published_b for name, probe in _probes(adapted).items()})
        return {name: self._of_module(name, total, adapted.layers[name].scaling) for name, total in sums.items()}

    def _of_module(self, name: str, total: Tensor, scaling: float) -> list[float]:
        """Scores from the sum of the sketches, `total` `[size, d_out]` in fp64."""
        n = self._batches.get(name, 0)
        if n < 2:
            return [0.0] * len(total)
        singular = torch.linalg.svdvals(total / n)
        square = float(singular.square().sum())
        variance = max(self._squares[name] / n - square, 0.0) * n / (n - 1)
        if square == 0 or variance == 0:
            return [0.0] * len(total)
        module = self.depths.get(name, 1.0) ** 2 * math.sqrt(square) / scaling * square / (variance / n)
        return [float(score) for score in module * singular / singular[0]]

    def forget(self, module: str) -> None:
        """Drops what is known of a module; its probe is dropped too."""
        self._pending.add_to(self._squares)
        self._squares.pop(module, None)
        self._batches.pop(module, None)

    def state(self) -> dict[str, Any]:
        """The sums, as JSON; those of the sketches are tensors of the probes."""
        self._pending.add_to(self._squares)
        return {"seen": self._seen, "squares": self._squares, "batches": self._batches}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned."""
        self._seen = int(state["seen"])
        self._squares = dict(state["squares"])
        self._batches = dict(state["batches"])


def depths(modules: Iterable[str]) -> dict[str, float]:
    """Return, for each module in a numbered layer, the share of such layers from its own to the last.

    In a stack of L layers, layer l (from 0) has (L - l) / L. The layer is the first number in the module's path, and
    every prefix before it, such as those of an encoder and a decoder, is a stack of its own.
    """
    layers = {name: found for name in modules if (found := re.match(r"(.*?\.)??(\d+)(\.|$)", name))}
    count: dict[str | None, int] = {}
    for found in layers.values():
        count[found[1]] = max(count.get(found[1], 0), int(found[2]) + 1)
    return {name: 1 - int(found[2]) / count[found[1]] for name, found in layers.items()}


def _on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in fp64 on the CPU, moved in one transfer: decompositions would wait for the device one by one."""
    if not tensors:
        return {}
    flat = torch.cat([tensor.double().flatten() for tensor in tensors.values()]).cpu()
    parts = torch.split(flat, [tensor.numel() for tensor in tensors.values()])
    return {name: part.view_as(tensor) for (name, tensor), part in zip(tensors.items(), parts, strict=True)}


def _probes(adapted: AdaptedModel) -> dict[str, ProbeBlock]:
    return {name: layer.reserve for name, layer in adapted.layers.items() if isinstance(layer.reserve, ProbeBlock)}
