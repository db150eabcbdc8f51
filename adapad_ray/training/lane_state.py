"""The tensors of a cell's lanes, as checkpoints store them and workers send them to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from adapad_ray.adapters.trainable_model import Structure, TrainableModel
from adapad_ray.training.estimates import Estimates
from adapad_ray.training.optimizer import ComponentOptimizer
from adapad_ray.training.weight_average import WeightAverage


class LaneState:
    """Adapters, heads, optimizer state, averages and estimates under one set of names.

    A name is `<kind>|<name within the kind>`, where the kind is `model`, `adam`, `average` or `estimate`. Each tensor
    belongs to one lane: that of its component or of its head.
    """

    def __init__(
        self, adapted: TrainableModel, optimizer: ComponentOptimizer, average: WeightAverage, estimates: Estimates
    ) -> None:
        self._adapted, self._optimizer, self._average, self._estimates = adapted, optimizer, average, estimates

    def tensors(self) -> dict[str, Tensor]:
        """The live tensors of all lanes; copy or save them before the training goes on."""
        named = self._adapted.named_parameters()
        tensors = {f"model|{name}": value for name, value in self._adapted.state().items()}
        tensors |= {f"adam|{name}": value for name, value in self._optimizer.tensors(named).items()}
        tensors |= {f"average|{name}": value for name, value in self._average.tensors().items()}
        return tensors | {f"estimate|{name}": value for name, value in self._estimates.tensors().items()}

    def tensors_of(self, chosen: Callable[[int], bool]) -> dict[str, Tensor]:
        """The live tensors of the lanes for which `chosen(lane)` is true."""
        return {name: value for name, value in self.tensors().items() if chosen(_lane_of(name))}

    def absorb(self, tensors: Mapping[str, Tensor]) -> None:
        """Replaces the tensors of some lanes by those of another worker with the same structure."""
        kinds = _by_kind(tensors)
        self._adapted.load_state(kinds["model"], partial=True)
        named = self._adapted.named_parameters()
        self._optimizer.absorb(named, kinds["adam"])
        self._average.absorb(kinds["average"], named)
        self._estimates.absorb(kinds["estimate"])

    def meta(self) -> dict[str, Any]:
        """The structure that the tensors fit, as JSON."""
        return {
            "structure": vars(self._adapted.structure()),
            "births": self._optimizer.births(self._adapted.named_parameters()),
            "average": self._average.meta(),
            "estimates": self._estimates.meta(),
        }

    def load(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Rebuilds the structure of `meta` and restores the `tensors`."""
        kinds = _by_kind(tensors)
        self._adapted.rebuild(Structure(**meta["structure"]))
        self._adapted.load_state(kinds["model"])
        named = self._adapted.named_parameters()
        self._optimizer.load(named, kinds["adam"], meta["births"])
        if "average" in meta:  # not in checkpoints of earlier versions
            self._average.load(meta["average"], kinds["average"], named)
        self._estimates.load(meta["estimates"], kinds["estimate"])


def _by_kind(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    kinds: dict[str, dict[str, Tensor]] = {"model": {}, "adam": {}, "average": {}, "estimate": {}}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("|")
        if kind in kinds:
            kinds[kind][name] = tensor
    return kinds


def _lane_of(name: str) -> int:
    """`<kind>|<module>|<lane>|…`, `<kind>|<module>|head|<lane>.…` or `estimate|<version>|<lane>`."""
    _kind, _, lane, *rest = name.split("|")
    return int(rest[0].partition(".")[0]) if lane == "head" else int(lane)
