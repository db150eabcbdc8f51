"""What a method and the framework hand each other: the cell's context, the plan, and reports during training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from adapad_ray.adapters.lane import Lane
from adapad_ray.budget import ModuleShape
from adapad_ray.errors import BadRequestError
from adapad_ray.results import GrowthEvent

if TYPE_CHECKING:
    from adapad_ray.methods.base import MethodConfig


class QuantizedBackboneError(BadRequestError):
    """The method cannot train on a quantised backbone, at any budget."""


@dataclass(frozen=True)
class CellContext:
    """What a method may use of its cell (one point of a sweep): all of it is known before training."""

    modules: tuple[ModuleShape, ...]
    """Target modules, in the model's order."""
    budget: int | None
    """Deployed adapter parameters; None for methods without a budget."""
    total_steps: int
    """Optimizer steps."""
    seed: int
    backbone_parameters: int = 0
    """Parameters of the backbone without its head; used by methods that train them."""
    quantization: str | None = None
    """How the backbone's linear layers are stored, where they are quantised."""


@dataclass(frozen=True)
class Plan:
    """What a method will build."""

    parameters: int
    """Deployed adapter parameters. Where training discovers the ranks: the most that can be reached."""
    peak_parameters: int
    """Largest number of adapter parameters in training at one time."""
    lanes: int
    """Largest number of lanes, and so of forward and backward passes, in one optimizer step; includes the reserve
    lane."""
    ranks: dict[str, int] | None
    """Module → rank of the exported LoRA, or None where training discovers the ranks."""
    acting_parameters: int | None = None
    """Parameters of the factored (LoRA) form that one pass computes with; None where that is `parameters`."""
    backbone_passes: int = 2
    """Cost of one training pass through the backbone in forward passes: the forward pass itself, the gradients of the
    activations, and the gradients of the weights where they learn."""

    @property
    def trains_head_only(self) -> bool:
        """Whether no adapter learns. Such a cell has nothing to train on a model without a head."""
        return self.peak_parameters == 0


@dataclass(frozen=True)
class Parent:
    """The cell that trains the adapter which a post-hoc method cuts; all cells with equal parents share it."""

    method: str
    config: MethodConfig
    budget: int


@dataclass(frozen=True)
class Deployable:
    """One model that can be deployed: the final one, or a prefix of it."""

    lane: Lane
    prefix: int | None = None
    """Components per module, or None for the final model."""


@dataclass
class RoundReport:
    """Changes of the structure at the end of a round."""

    grown: list[GrowthEvent] = field(default_factory=list)
    retired: list[nn.Parameter] = field(default_factory=list)
    """Parameters that no longer learn: those of discarded reserves, and heads of lanes that have ended. The optimizer
    drops their state."""
