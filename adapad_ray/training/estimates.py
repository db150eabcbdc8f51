"""The published estimates, version by version: what lanes read of each other in the next round."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.adapters.trainable_model import TrainableModel


@dataclass
class Version:
    """The estimates published at the end of one round."""

    layout: dict[int, tuple[str, ...]]
    """Block → the modules that had it at that time; growth may have added others since."""
    values: dict[int, Tensor] = field(default_factory=dict)
    """Block → flat estimate, for the blocks that this process holds."""


class Estimates:
    """The versions that may still be read.

    Version v holds what all lanes published at the end of round v, counted from 1 (Jacobi: all new values become
    visible together); version 0 is the initial state. After v rounds the next one reads exactly version
    `max(0, v - staleness)`, even if newer ones have arrived, so the result depends neither on timing nor on the number
    of workers.
    """

    def __init__(self, adapted: TrainableModel, staleness: int = 0) -> None:
        self.adapted = adapted
        self.staleness = staleness
        self.newest = 0
        self._versions: dict[int, Version] = {}

    @property
    def _components(self) -> AdaptedModel:
        if not isinstance(self.adapted, AdaptedModel):
            raise TypeError(f"a {type(self.adapted).__name__} has no estimates to publish")
        return self.adapted

    @property
    def readable(self) -> int:
        """The version that the next round reads."""
        return max(0, self.newest - self.staleness)

    def add(self, blocks: Sequence[int], known: Collection[int]) -> Mapping[int, Tensor]:
        """Ends a round in which `blocks` are published.

        Returns the estimates of those that are `known`: whose live values this process holds.
        """
        self.newest += 1
        version = Version({k: self._components.modules_of(k) for k in blocks})
        version.values = {k: self._components.live_values(k) for k in blocks if k in known}
        self._versions[self.newest] = version
        return version.values

    def missing(self, highest: int) -> list[int]:
        """Blocks up to `highest` that the next round reads and that this process does not hold."""
        version = self._versions.get(self.readable)
        return [] if version is None else [k for k in version.layout if k <= highest and k not in version.values]

    def receive(self, version: int, values: Mapping[int, Tensor]) -> None:
        """Adds estimates published by other workers."""
        if values:
            self._versions[version].values |= values

    def read(self, newest: bool = False) -> dict[int, float]:
        """Makes the readable version (or the newest) the one that lanes see, and drops older ones.

        Returns the relative movement of each block.
        """
        chosen = self.newest if newest else self.readable
        version = self._versions.get(chosen)
        for number in [n for n in self._versions if n < chosen]:
            del self._versions[number]
        if version is None or not version.values:
            return {}
        values = dict(sorted(version.values.items()))
        moved = [self._components.set_published(k, v, version.layout[k]) for k, v in values.items()]
        return dict(zip(values, torch.stack(moved).tolist(), strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """The values of versions that have not been read yet, as `<version>|<block>`."""
        return {
            f"{number}|{k}": value
            for number, version in self._versions.items()
            if number > self.readable
            for k, value in version.values.items()
        }

    def meta(self) -> dict[str, Any]:
        """The rest of the state, as JSON."""
        layouts = {str(n): {str(k): list(m) for k, m in v.layout.items()} for n, v in self._versions.items()}
        return {"newest": self.newest, "layouts": layouts}

    def load(self, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Restores the results of `meta` and `tensors`."""
        self.newest = int(meta["newest"])
        self._versions = {
            int(n): Version({int(k): tuple(m) for k, m in layout.items()}) for n, layout in meta["layouts"].items()
        }
        self.absorb(tensors)

    def absorb(self, tensors: Mapping[str, Tensor]) -> None:
        """Adds values of another process, under the names that `tensors` uses."""
        for name, value in tensors.items():
            number, _, k = name.partition("|")
            self._versions[int(number)].values[int(k)] = value
