"""Models whose trained parameters are not this project's components: the backbone's own weights, or PEFT's layers.

Such a model is one block, number 1, for lanes and the training loop. It acts in every lane and learns in the lanes in
which block 1 is live.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.trainable_model import TrainableModel
from adapad_ray.budget import ModuleShape
from adapad_ray.frozen_linear.dispatch import frozen_linear
from adapad_ray.frozen_linear.mixed import COPY

ADAPTER = "default"
"""Name of the adapter inside PEFT's layers."""


class SingleBlockModel(TrainableModel):
    """A model in which everything in `trained` learns together."""

    @property
    def blocks(self) -> int:
        return 1

    def learning(self, lane: Lane) -> list[nn.Parameter]:
        return list(self.trained().values()) if 1 in lane.live else []

    def publish(self, blocks: Sequence[int] | None = None) -> None:
        """Do nothing: the block acts through its live values everywhere."""

    def deployed_parameters(self, lane: Lane) -> int:
        return self.adapter_parameters()


class FullModel(SingleBlockModel):
    """Every weight of the backbone learns, in a private copy; `detach` puts the original ones back.

    The originals may lie in memory that other processes read. Copies are fp32 at least, whatever the backbone's dtype.
    Tied weights stay tied.
    """

    def __init__(self, model: nn.Module, head_modules: Sequence[str]) -> None:
        heads = {id(p) for name in head_modules for p in model.get_submodule(name).parameters()}
        copies: dict[int, nn.Parameter] = {}
        self._originals: list[tuple[nn.Module, str, nn.Parameter]] = []
        self._trained: dict[str, nn.Parameter] = {}
        for path, module in model.named_modules():
            for key, original in list(module.named_parameters(recurse=False)):
                if id(original) in heads or key == COPY:
                    continue
                if id(original) not in copies:
                    dtype = torch.promote_types(original.dtype, torch.float32)
                    copies[id(original)] = nn.Parameter(original.detach().to(dtype, copy=True))
                    self._trained[f"{path}|1|{key}"] = copies[id(original)]
                self._originals.append((module, key, original))
                setattr(module, key, copies[id(original)])
        super().__init__(model, head_modules)

    def trained(self) -> dict[str, nn.Parameter]:
        return dict(self._trained)

    @property
    def ranks(self) -> dict[str, int]:
        """Empty: weights that learn as a whole have no rank."""
        return {}

    def acting_parameters(self, lane: Lane) -> int:
        """Return 0: no adapter acts beside the backbone's weights."""
        return 0

    def detach(self) -> None:
        super().detach()
        for module, key, original in self._originals:
            setattr(module, key, original)


class InjectedModel(SingleBlockModel):
    """The layers of a PEFT tuner on `modules`, trained in place.

    PEFT draws initial values and dropout from torch's global generator. Here the method draws initial values again when
    it builds, and dropout uses the lane's generator, so results do not depend on what ran before. Trained parameters
    are fp32 at least, whatever the backbone's dtype.

    Args:
        config: the tuner's configuration; `target_modules` and `fan_in_fan_out` are set here, and `lora_dropout` is
            replaced by `dropout`.

    Raises:
        BadRequestError: the class of a module is not supported.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: Sequence[ModuleShape],
        head_modules: Sequence[str],
        config: Any,
        *,
        dropout: float = 0.0,
    ) -> None:
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

        self.shapes = tuple(modules)
        self.linears = {m.name: frozen_linear(model.get_submodule(m.name), m.name) for m in modules}
        self.fan_in_fan_out = config.fan_in_fan_out = any(x.fan_in_fan_out for x in self.linears.values())
        config.target_modules = "|".join(re.escape(m.name) for m in modules)  # matched as a whole, unlike a list
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # Where modules of both kinds are mixed, PEFT corrects the setting module by module.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
            self.tuner: Any = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](model, config, ADAPTER)
        self.peft_layers: dict[str, Any] = {m.name: model.get_submodule(m.name) for m in modules}
        self._dropouts: list[_Dropout] = []
        for layer in self.peft_layers.values():
            for key, p in layer.named_parameters():
                if not key.startswith("base_layer."):  # PEFT gives them the backbone's dtype
                    p.data = p.data.to(torch.promote_types(p.dtype, torch.float32))
                    p.requires_grad_(key.startswith("lora_"))
            if dropout:
                layer.lora_dropout[ADAPTER] = _Dropout(dropout)
                self._dropouts.append(layer.lora_dropout[ADAPTER])
        super().__init__(model, head_modules)

    @property
    def config(self) -> Any:
        """The tuner's configuration."""
        return self.tuner.peft_config[ADAPTER]

    def trained(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}|1|{key}": p
            for name, layer in self.peft_layers.items()
            for key, p in layer.named_parameters()
            if key.startswith("lora_")
        }

    @property
    def ranks(self) -> dict[str, int]:
        return {name: layer.r[ADAPTER] for name, layer in self.peft_layers.items()}

    def acting_parameters(self, lane: Lane) -> int:
        return self.adapter_parameters()

    def use(self, lane: Lane, generator: torch.Generator | None = None) -> None:
        super().use(lane, generator)
        for dropout in self._dropouts:
            dropout.generator = generator
        for layer in self.peft_layers.values():
            layer.training = generator is not None  # of this layer alone: PEFT skips dropout in evaluation

    def detach(self) -> None:
        super().detach()
        for name, layer in self.peft_layers.items():
            self.model.set_submodule(name, layer.get_base_layer())
        del self.model.peft_config


class _Dropout(nn.Module):
    """Dropout from a given generator; none without one."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.generator is None:
            return x
        kept = torch.rand(x.shape, generator=self.generator, device=x.device) >= self.p
        return x * (kept.to(x.dtype) / (1 - self.p))
