"""A slot: one prefix model in training inside a pack."""

from __future__ import annotations

from dataclasses import dataclass

from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.adapters.trainable_model import TrainableModel


class NotPackableError(RuntimeError):
    """A model computes something that slots cannot share a pass for; one after another they can be trained."""


@dataclass(frozen=True)
class Slot:
    """One lane of one cell. The cells of a pack are adapted from the same backbone."""

    adapted: AdaptedModel
    lane: Lane


def can_be_packed(adapted: TrainableModel, lane: Lane) -> bool:
    """Whether everything that learns in `lane` can stand in a stack."""
    if not isinstance(adapted, AdaptedModel):
        return False
    return all(block.kind is not None for layer in adapted.layers.values() for block in layer.live(lane))
