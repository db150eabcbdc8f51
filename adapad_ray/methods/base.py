"""The contract of a method.

`Contract` is what every method must define. The hooks below it are optional and have defaults, which together are
joint training of one block of components per module. They are grouped by purpose: `StructureHooks`, `ScheduleHooks`,
`PersistenceHooks`. A method subclasses `BudgetedMethod`, or `Method` where no budget applies.

A method never handles an optimizer, a batch or a loss. Terms: a *component* is one rank-1 update of a module; a *lane*
is one model in training, that is, which components act and which of them learn; a *round* is `local_steps` optimizer
steps, after which lanes publish their components; a *reserve* is a component in training that does not act yet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Generic, Literal, TypeVar, final

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from adapad_ray.adapters.families import PLAIN, Family
from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.load import LoadedAdapter
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.adapters.trainable_model import TrainableModel
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.plan import CellContext, Deployable, Parent, Plan, RoundReport


class MethodConfig(BaseModel):
    """Settings that every adapter method has."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lora_alpha: float = Field(default=2.0, gt=0)
    """Numerator of the scale s = lora_alpha / rank (2106.09685), which lets one learning rate serve several ranks. The
    project default of 2 brings the best learning rates of adapter and head close together on MiniLM-L6."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""


ConfigT = TypeVar("ConfigT", bound=MethodConfig)


class Contract(ABC, Generic[ConfigT]):
    """What every method must define: a name, a summary, a config and a plan."""

    name: ClassVar[str]
    """The key under `methods:` in a sweep's file."""
    summary: ClassVar[str]
    """One line for `adapad list methods`."""
    Config: ClassVar[type[MethodConfig]]
    """The settings, validated by pydantic."""
    structural: ClassVar[frozenset[str]] = frozenset()
    """Settings that decide which adapters exist at a budget; they cannot be tuned."""
    version: ClassVar[int] = 1
    """Raise it when the method's results change; it is part of every cell's identity."""

    def __init__(self, config: ConfigT, context: CellContext) -> None:
        self.config = config
        self.context = context

    @abstractmethod
    def plan(self) -> Plan:
        """What will be built: the largest adapter within the budget. Nothing has been trained or attached yet.

        Raises:
            BudgetTooSmallError: no adapter of this method fits the budget.
            BadRequestError: the settings cannot be met on these modules.
        """


class StructureHooks(Contract[ConfigT]):
    """What is attached to the backbone, where its first values come from, and what is deployed of it."""

    family: Family = PLAIN
    """Parametrisation of the components."""
    adapted: TrainableModel
    """The model with its adapters, set by `Method.adapt`. A method of components narrows the type to `AdaptedModel`."""

    def scales(self) -> dict[str, float]:
        """Constant factor s of every module's update; by default `lora_alpha / rank` with the planned rank."""
        ranks = self.plan().ranks or {}
        return {m.name: self.config.lora_alpha / ranks.get(m.name, 1) for m in self.context.modules}

    def attach(self, model: nn.Module, head_modules: Sequence[str]) -> TrainableModel:
        """Attaches adapters to `model`; by default components of `family` on all target modules."""
        return AdaptedModel(
            model,
            self.context.modules,
            head_modules,
            scales=self.scales(),
            family=self.family,
            dropout=self.config.dropout,
        )

    def build(self, generator: torch.Generator) -> None:
        """Creates the first components and heads; by default one block of the planned rank on every module."""
        adapted = self.adapted
        if not isinstance(adapted, AdaptedModel):
            raise TypeError(f"{self.name} attaches a {type(adapted).__name__}, so it must override build")
        for module, rank in (self.plan().ranks or {}).items():
            adapted.add_block(module, rank, generator)
        adapted.add_head(1)

    def parent(self) -> Parent | None:
        """The cell that must be trained first, for a post-hoc method; None where the method trains its own adapter."""
        return None

    def inherit(self, adapter: LoadedAdapter) -> None:
        """Receives the parent's adapter before `build`; only called where `parent` is not None."""
        raise NotImplementedError(f"{self.name} has a parent but does not override inherit")

    def deployables(self) -> list[Deployable]:
        """The final model first, then smaller models that the same training yields."""
        return [Deployable(Lane.prefix(self.adapted.blocks, head=1))]


class ScheduleHooks(Contract[ConfigT]):
    """What trains in a step, what happens between steps, and how workers share the training.

    Steps count from 0. `steps_done` is the number of optimizer steps so far, from 1.
    """

    adapted: TrainableModel
    local_steps: int = 1
    """Optimizer steps of one round."""
    parallel: Literal["components", "data"] | None = "data"
    """How several workers share one cell: they train different lanes, or different examples of each batch. None: the
    method trains in one worker only."""
    shares_passes: ClassVar[bool] = False
    """Whether cells of this method can train in packs (`adapters.packs`): the model is an `AdaptedModel` of blocks that
    stack, and nothing else is trained. Lanes with other blocks train alone."""
    in_parts: bool = False
    """Whether the gradient of the present lane is summed over several backward passes; the trainer sets it."""
    staleness: int = 0
    """Rounds between the newest published estimates and those that lanes read."""

    @property
    def learning_rate_scale(self) -> float:
        """Factor on the cell's learning rate, for a method that needs other rates than those it is compared with."""
        return 1.0

    def lanes(self, step: int) -> Sequence[Lane]:
        """The lanes that train in `step`; by default one in which everything learns."""
        return (Lane.joint(self.adapted.blocks),)

    def whole(self) -> Lane:
        """The model as it would be deployed if the training ended with this round: what validation during training
        scores."""
        return Lane.joint(self.adapted.blocks)

    def phase(self, step: int) -> tuple[int, int]:
        """First step and length of the phase that contains `step`. The learning-rate schedule runs once per phase; by
        default the whole training is one."""
        return 0, self.context.total_steps

    def watches(self, lane: Lane) -> bool:
        """Whether the method reads layers by hooks while `lane` trains; the lane then shares no pass."""
        return False

    def penalty(self, lane: Lane) -> torch.Tensor | None:
        """A scalar to add to the loss of `lane`, differentiable in its parameters; None adds nothing."""
        return None

    def observe(self, lane: Lane) -> None:
        """Called after the backward pass of `lane`, before its optimizer step. Gradients may be read but not kept."""

    def stepped(self, steps_done: int) -> None:
        """Called in every worker after an optimizer step, while its clipped gradients still exist."""

    def end_round(self, steps_done: int, generator: torch.Generator) -> RoundReport:
        """Called in every worker at the end of a round. Changes of the structure belong here."""
        return RoundReport()

    def grows(self, steps_done: int) -> bool:
        """Whether the coming `end_round` may change the structure; workers gather their state before it."""
        return False

    def published(self, steps_done: int) -> Sequence[int]:
        """Numbers of the blocks (from 1) whose values the other lanes receive at the end of this round."""
        return ()

    def in_tail(self, step: int) -> bool:
        """Whether `step` belongs to a joint tail: rank 0 trains it alone, on the gathered state of all workers, and
        published values no longer change."""
        return False

    def finish(self) -> None:
        """Called once after the last step, before evaluation; publishes every block whose published value acts in a
        deployable."""
        self.adapted.publish()


class PersistenceHooks:
    """What a method must save beside the model's tensors to continue after an interruption."""

    def state(self) -> dict[str, Any]:
        """The method's own state, as JSON."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restores what `state` returned. Components and heads of that moment are in `adapted` already."""


class Method(StructureHooks[ConfigT], ScheduleHooks[ConfigT], PersistenceHooks):
    """A way to train a model. Without overrides: joint training of one block of components per module."""

    budgeted: ClassVar[bool] = False
    """Whether the method has a budget; see `BudgetedMethod`."""

    @final
    def adapt(self, model: nn.Module, head_modules: Sequence[str]) -> TrainableModel:
        """Attaches the method's adapters to `model` and keeps the result as `adapted`."""
        self.adapted = self.attach(model, head_modules)
        return self.adapted

    @property
    def training_steps(self) -> int:
        """Optimizer steps of this cell: none where a parent has done the training."""
        return self.context.total_steps if self.parent() is None else 0

    def check_rank(self, setting: str, rank: int | Mapping[str, int] | None) -> None:
        """Checks a requested rank, of every module or by module; None passes.

        Raises:
            BadRequestError: `rank` is above a dimension of a module.
        """
        limits = {m.name: m.max_rank for m in self.context.modules}
        ranks = rank if isinstance(rank, Mapping) else dict.fromkeys(limits, rank or 0)
        check_ranks(setting, ranks, limits)


class BudgetedMethod(Method[ConfigT]):
    """A method whose deployed adapter must fit a budget of parameters."""

    budgeted = True
    budget: int
    """Most adapter parameters that may be deployed."""

    def __init__(self, config: ConfigT, context: CellContext) -> None:
        super().__init__(config, context)
        if context.budget is None:
            raise ValueError(f"{self.name} needs a budget, got None")
        self.budget = context.budget

    @cached_property
    def costs(self) -> dict[str, int]:
        """Module → parameters of one component."""
        return {m.name: self.family.cost(m) for m in self.context.modules}

    def budget_scales(self) -> dict[str, float]:
        """Scales for methods whose ranks differ between modules: `lora_alpha / mean rank` with the rank (at least 1)
        of a uniform LoRA of this budget, the same on every module up to the family's gain."""
        mean_rank = self.budget / sum(m.component_cost for m in self.context.modules)
        alpha = self.config.lora_alpha / max(1.0, mean_rank)
        return {m.name: alpha * self.family.gain(m) for m in self.context.modules}


def check_ranks(setting: str, ranks: Mapping[str, int], limits: Mapping[str, int]) -> None:
    """Checks requested ranks against the largest possible ones, both by name.

    Args:
        setting: the name of the setting that requests the ranks, for the message.

    Raises:
        BadRequestError: a rank is above its limit.
    """
    for name, rank in ranks.items():
        if rank > limits[name]:
            raise BadRequestError(
                f"{setting} {rank} is above the dimension {limits[name]} of {name}: use at most {limits[name]}"
            )
