"""An optimizer in which every component has a state, a step count and a warm-up of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adapad_ray.training.settings import TrainingSettings

_STATE_KEYS = ("step", "exp_avg", "exp_avg_sq")
"""Of AdamW; plain gradient descent has no state."""


class ComponentOptimizer:
    """One optimizer over parameters that come and go; a parameter keeps its state when its component changes lanes.

    Parameters are grouped by the step of their birth, because a late component follows the global schedule times its
    own short warm-up. Only the parameters of the current lane are stepped.
    """

    def __init__(self, settings: TrainingSettings, total_steps: int, scale: float = 1.0) -> None:
        self.settings = settings
        self.total_steps = total_steps
        self.scale = scale
        """Factor on the settings' learning rate."""
        self._inner: torch.optim.Optimizer | None = None
        self._births: dict[nn.Parameter, int] = {}

    def adopt(self, parameters: Iterable[nn.Parameter], birth: int) -> None:
        """Adds those of `parameters` that are new, born at optimizer step `birth`."""
        new = [p for p in parameters if p not in self._births]
        if not new:
            return
        self._births.update(dict.fromkeys(new, birth))
        if self._inner is None:
            kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[self.settings.optimizer]
            self._inner = kind(
                [{"params": new, "birth": birth}],
                lr=self.settings.learning_rate,
                weight_decay=self.settings.weight_decay,
                fused=True,
            )
            return
        for group in self._inner.param_groups:
            if group["birth"] == birth:
                group["params"].extend(new)
                return
        self._inner.add_param_group({"params": new, "birth": birth})

    def forget(self, parameters: Iterable[nn.Parameter]) -> None:
        """Drops parameters that no longer learn, with their state."""
        gone = set(parameters)
        if self._inner is None or not gone:
            return
        for group in self._inner.param_groups:
            group["params"] = [p for p in group["params"] if p not in gone]
        for p in gone:
            self._inner.state.pop(p, None)
            self._births.pop(p, None)

    def begin_step(self, step: int, phase: tuple[int, int] | None = None) -> None:
        """Sets the learning rates of optimizer step `step` (from 0).

        The schedule runs once over the steps of a `phase` (first step, number of steps), by default the whole training.
        """
        if self._inner is None:
            return
        first, steps = phase or (0, self.total_steps)
        rate = self.scale * self.settings.learning_rate * self.settings.schedule(step - first, steps)
        warmup = self.settings.component_warmup_steps
        for group in self._inner.param_groups:
            late = group["birth"] > first and warmup > 0
            group["lr"] = rate * min(1.0, (step - group["birth"] + 1) / warmup) if late else rate

    @property
    def rates(self) -> dict[int, float]:
        """Birth → learning rate of this step, for the births of all parameters."""
        return {} if self._inner is None else {group["birth"]: group["lr"] for group in self._inner.param_groups}

    def birth(self, parameter: nn.Parameter) -> int:
        """The optimizer step at which a parameter was born."""
        return self._births[parameter]

    @torch.no_grad()
    def keep_state_in(self, parameter: nn.Parameter, **places: Tensor) -> None:
        """Moves AdamW's state of a parameter into `places` (`step`, `exp_avg`, `exp_avg_sq`): who changes them from now
        on changes the state. A parameter without a state gets one that has seen no step."""
        assert self._inner is not None
        before = self._inner.state.get(parameter)
        for key, place in places.items():
            place.fill_(0) if before is None else place.copy_(before[key])
        self._inner.state[parameter] = places

    def step(self, learning: Iterable[nn.Parameter]) -> None:
        """Steps `learning`; gradients of all other parameters are discarded."""
        if self._inner is None:  # no parameter has been born yet: nothing learns before growth
            return
        chosen = set(learning)
        for p in self._births:
            if p not in chosen:
                p.grad = None
        self._inner.step()

    def clear_gradients(self) -> None:
        """Drops all gradients before the next backward pass."""
        if self._inner is not None:
            self._inner.zero_grad(set_to_none=True)

    def tensors(self, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """The optimizer's state of these parameters, as `<parameter name>|<key>`."""
        state = self._inner.state if self._inner is not None else {}
        return {f"{name}|{key}": state[p][key] for name, p in named.items() if p in state for key in _STATE_KEYS}

    def births(self, named: Mapping[str, nn.Parameter]) -> dict[str, int]:
        """The optimizer step at which each of these parameters was born."""
        return {name: self._births[p] for name, p in named.items() if p in self._births}

    def load(self, named: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], births: Mapping[str, Any]) -> None:
        """Restores the results of `tensors` and `births`."""
        for name, birth in births.items():
            self.adopt([named[name]], int(birth))
        self.absorb(named, tensors)

    def absorb(self, named: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
        """Replaces the state of those parameters that `tensors` contains."""
        for name, p in named.items():
            if f"{name}|step" in tensors:
                assert self._inner is not None
                self._inner.state[p] = {key: tensors[f"{name}|{key}"].to(p.device, copy=True) for key in _STATE_KEYS}
