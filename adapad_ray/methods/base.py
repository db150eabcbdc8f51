"""The contract of a method: which components there are, which lanes train them, and what is deployed.

A method is one file with one small class. It never touches an optimizer, a batch or a loss: the training loop asks it
for the lanes of the coming step, trains them, and tells it when a round is over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar, final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from adapad_ray.adapters.families import PLAIN, Family
from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.load import LoadedAdapter
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.budget import ModuleShape
from adapad_ray.results import GrowthEvent


class MethodConfig(BaseModel):
    """Settings that every adapter method has."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lora_alpha: float = Field(default=2.0, gt=0)
    """Numerator of the scale s = lora_alpha / rank (2106.09685), which lets one learning rate serve several ranks. 2 is
    ours, for all methods: with it the best learning rates of adapter and head were close on MiniLM-L6."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""


ConfigT = TypeVar("ConfigT", bound=MethodConfig)


@dataclass(frozen=True)
class CellContext:
    """The cell that a method works in."""

    modules: tuple[ModuleShape, ...]
    budget: int | None
    """Deployed adapter parameters; None for methods without a budget."""
    total_steps: int
    seed: int
    backbone_parameters: int = 0
    """Parameters of the backbone, head apart; read by methods that train them."""


@dataclass(frozen=True)
class Plan:
    """What a method will build, known before anything is trained."""

    parameters: int
    """Deployed adapter parameters; for discovered ranks the most that can be reached."""
    peak_parameters: int
    """Largest number of adapter parameters in training at one time."""
    lanes: int
    """Most lanes that train in one optimizer step, the reserve lane included."""
    ranks: dict[str, int] | None
    """Rank per module, or None where training discovers it."""
    passes: int = 1
    """Most forward-and-backward passes in one optimizer step."""
    acting_parameters: int | None = None
    """What acts in one pass in LoRA's factored form, in which it is computed; None where that is `parameters`."""


@dataclass(frozen=True)
class Parent:
    """The training that a post-hoc method cuts its adapters from: a cell of its own, shared by all that name it."""

    method: str
    config: MethodConfig
    budget: int


@dataclass(frozen=True)
class Deployable:
    """One model that can be deployed: the final one, or a prefix of it."""

    lane: Lane
    prefix: int | None = None


@dataclass
class RoundReport:
    """What changed at the end of a round: the loop gives new parameters to the optimizer and forgets retired ones."""

    grown: list[GrowthEvent] = field(default_factory=list)
    retired: list[nn.Parameter] = field(default_factory=list)
    """Parameters that learn no longer: discarded reserves and heads of ended lanes."""


class Method(ABC, Generic[ConfigT]):
    """One way to spend a parameter budget. Subclasses override what differs from plain joint training."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raised when the method's results change; part of every cell's identity."""
    summary: ClassVar[str]
    """One line for `adapad list methods`."""
    Config: ClassVar[type[MethodConfig]]
    structural: ClassVar[frozenset[str]] = frozenset()
    """Settings that decide which adapters exist at a budget; they cannot be tuned."""
    budgeted: ClassVar[bool] = True
    """Whether the method has a budget; without one it is a reference of the curve."""

    head_alone: ClassVar[bool] = False
    """Whether nothing but the task head learns: where a model has none, there is nothing to train."""

    backbone_passes: ClassVar[int] = 2
    """What a training pass costs in forward passes of the backbone, adapters apart: the forward itself, the gradients
    of the activations, and those of the weights where they learn."""
    learning_rate_scale: float = 1.0
    """Factor on the cell's learning rate, for a method whose good ones lie elsewhere than those of its companions."""
    family: Family = PLAIN
    """How this method's components are parametrised."""
    parallel: Literal["components", "data"] | None = "data"
    """What several workers of one cell share out: lanes, the examples of a batch, or nothing (one worker only)."""
    staleness: int = 0
    """Rounds between the newest published estimates and those that lanes read."""
    local_steps: int = 1
    """Optimizer steps T of one round."""
    adapted: AdaptedModel
    """The model with its adapters, from `adapt` on."""

    def __init__(self, config: ConfigT, context: CellContext) -> None:
        self.config = config
        self.context = context

    def parent(self) -> Parent | None:
        """What has to be trained before; None for a method that trains its adapter itself."""
        return None

    def inherit(self, adapter: LoadedAdapter) -> None:
        """Called before `build` with the parent's finished adapter, where there is a parent."""
        raise NotImplementedError(f"{self.name} names no parent")

    @property
    def training_steps(self) -> int:
        """Optimizer steps of the cell itself: none where a parent has done the training."""
        return self.context.total_steps if self.parent() is None else 0

    def phase(self, step: int) -> tuple[int, int]:
        """The first step and the number of steps of the phase that `step` (from 0) belongs to: the learning-rate
        schedule runs once in every phase. By default the whole training is one."""
        return 0, self.context.total_steps

    @abstractmethod
    def plan(self) -> Plan:
        """What will be built.

        Raises:
            BudgetTooSmallError: no adapter of this method fits the budget.
            BadRequestError: the configuration cannot be met on these modules.
        """

    def scales(self) -> dict[str, float]:
        """Constant factor s of every module's update; by default `lora_alpha / rank` with the planned rank."""
        ranks = self.plan().ranks or {}
        return {m.name: self.config.lora_alpha / ranks.get(m.name, 1) for m in self.context.modules}

    def budget_scales(self) -> dict[str, float]:
        """`lora_alpha / mean rank of the budget`, at least rank 1: the scale of a uniform LoRA of this budget, the same
        on every module whatever its rank; for methods whose ranks differ between modules."""
        assert self.context.budget is not None
        mean_rank = self.context.budget / sum(m.component_cost for m in self.context.modules)
        alpha = self.config.lora_alpha / max(1.0, mean_rank)
        return {m.name: alpha * self.family.gain(m) for m in self.context.modules}

    @final
    def adapt(self, model: nn.Module, head_modules: Sequence[str]) -> AdaptedModel:
        """Attaches the adapters to `model`; the result is `adapted` from here on."""
        self.adapted = self.attach(model, head_modules)
        return self.adapted

    def attach(self, model: nn.Module, head_modules: Sequence[str]) -> AdaptedModel:
        """Attaches what will be trained to `model`: by default components of `family` on the cell's modules."""
        return AdaptedModel(
            model,
            self.context.modules,
            head_modules,
            scales=self.scales(),
            family=self.family,
            dropout=self.config.dropout,
        )

    def build(self, generator: torch.Generator) -> None:
        """Creates the first components and heads; by default one jointly trained block per module of `plan().ranks`."""
        for module, rank in (self.plan().ranks or {}).items():
            self.adapted.add_block(module, rank, generator)
        self.adapted.add_head(1)

    def lanes(self, step: int) -> Sequence[Lane]:
        """The lanes that train in optimizer step `step` (from 0)."""
        return (Lane.joint(self.adapted.blocks),)

    def penalty(self, lane: Lane) -> torch.Tensor | None:
        """A scalar that is added to the loss of `lane`, differentiable in its parameters; by default nothing is."""
        return None

    def observe(self, lane: Lane) -> None:
        """Called after the backward pass of `lane`, before its optimizer step: gradients may be read, not kept."""

    def stepped(self, steps_done: int) -> None:
        """Called after an optimizer step, in every worker alike, while its (clipped) gradients are still there."""

    def grows(self, steps_done: int) -> bool:
        """Whether the coming `end_round` may change the structure; workers bring their state together before it."""
        return False

    def in_tail(self, step: int) -> bool:
        """Whether `step` is of a joint tail: rank 0 alone trains it, on the state that all have brought together. What
        is published at its beginning stays so."""
        return False

    def end_round(self, steps_done: int, generator: torch.Generator) -> RoundReport:
        """Called after every `local_steps` optimizer steps, in every worker alike: grow where it is time."""
        return RoundReport()

    def published(self, steps_done: int) -> Sequence[int]:
        """Blocks that publish their estimates at the end of this round."""
        return ()

    def finish(self) -> None:
        """Called once after the last step, before evaluation: what acts as published in a deployable must be so."""
        self.adapted.publish()

    def deployables(self) -> list[Deployable]:
        """The final model first, then smaller models that this run yields as well."""
        return [Deployable(Lane.prefix(self.adapted.blocks, head=1))]

    def state(self) -> dict[str, Any]:
        """What the method must remember beside the model, as JSON."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave; `adapted` holds the components and heads of that moment already."""
