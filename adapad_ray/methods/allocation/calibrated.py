"""What FIM-LoRA and GoRA share: a calibration, one allocation of the whole budget, then joint training as in LoRA."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from adapad_ray.adapters.families import Block, ProbeBlock
from adapad_ray.adapters.lane import RESERVE, Lane
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.adapters.trainable_model import TrainableModel
from adapad_ray.budget import ComponentRequest, Ledger, ModuleShape, check_fits_one, decide_components
from adapad_ray.methods.base import BudgetedMethod, MethodConfig
from adapad_ray.methods.plan import CellContext, Deployable, Plan, RoundReport
from adapad_ray.results import GrowthEvent


class CalibratedConfig(MethodConfig):
    """Settings of a method with a calibration. See the subclasses for what is published."""

    calibration_steps: int
    """Steps at the start in which gradients are measured. The authors calibrate before training, with the head as it
    is. Here these are the first steps of the training, in which the task head learns alone: a comparison gives every
    method the same examples, and a new head passes almost no gradient on (this project's choice)."""


CalibratedT = TypeVar("CalibratedT", bound=CalibratedConfig)


class CalibratedMethod(BudgetedMethod[CalibratedT]):
    """Probes measure gradients for `calibration_steps`; then every module gets its whole rank as one block.

    A rank in proportion to a share is assigned one component at a time (D'Hondt): component j of a module has the claim
    `claim / j`, and the largest claims that fit the budget win. So the budget is met as closely as components allow,
    also below one component per module, where the authors' rounding gives every module its minimum rank.
    """

    adapted: AdaptedModel
    shares_passes = True
    parallel = None

    def __init__(self, config: CalibratedT, context: CellContext) -> None:
        super().__init__(config, context)
        self.limits = {m.name: m.max_rank for m in context.modules}
        self.calibration = min(config.calibration_steps, max(1, context.total_steps // 2))
        """Steps of the calibration; at most half of all."""

    @abstractmethod
    def directions(self, shape: ModuleShape, generator: torch.Generator) -> Tensor:
        """The directions `[size, d_in]` in which a module's gradient is measured."""

    def measure(self, probes: Mapping[str, ProbeBlock]) -> None:
        """Called after every backward pass of the calibration; by default the probes add up their gradients."""
        for probe in probes.values():
            probe.take(add=True)

    @abstractmethod
    def claims(self, probes: Mapping[str, ProbeBlock]) -> dict[str, float]:
        """Module → its claim on components."""

    def initialise(self, name: str, block: Block, probe: ProbeBlock) -> None:
        """Sets the first values of the new block of module `name`; by default those of LoRA stay."""

    def plan(self) -> Plan:
        check_fits_one(self.budget, self.costs.values())
        reachable = min(self.budget, sum(self.limits[name] * cost for name, cost in self.costs.items()))
        return Plan(parameters=reachable, peak_parameters=reachable, lanes=1, ranks=None)

    def scales(self) -> dict[str, float]:
        return self.budget_scales()

    def attach(self, model: nn.Module, head_modules: Sequence[str]) -> TrainableModel:
        attached = super().attach(model, head_modules)
        assert isinstance(attached, AdaptedModel)
        attached.probe = self.directions
        return attached

    def build(self, generator: torch.Generator) -> None:
        for name in self.adapted.layers:
            self.adapted.add_reserve(name, generator)
        self.adapted.add_head(RESERVE)

    def lanes(self, step: int) -> Sequence[Lane]:
        return (Lane.reserves(0),) if step < self.calibration else (Lane.joint(1),)

    def observe(self, lane: Lane) -> None:
        if lane.reserve:
            self.measure(self._probes)

    def grows(self, steps_done: int) -> bool:
        return steps_done == self.calibration

    def end_round(self, steps_done: int, generator: torch.Generator) -> RoundReport:
        report = RoundReport()
        if self.grows(steps_done):
            self._allocate(steps_done, generator, report)
        return report

    def _allocate(self, steps_done: int, generator: torch.Generator, report: RoundReport) -> None:
        adapted, probes = self.adapted, self._probes
        ranks = self._ranks(self.claims(probes))
        spent = 0
        for name, rank in ranks.items():
            self.initialise(name, adapted.add_block(name, rank, generator), probes[name])
            spent += rank * self.costs[name]
            report.grown.append(GrowthEvent(step=steps_done, module=name, rank=rank, spent=spent))
        for name in probes:
            report.retired += adapted.drop_reserve(name)
        adapted.add_head(1, source=RESERVE)
        report.retired += adapted.drop_head(RESERVE)

    def _ranks(self, claims: Mapping[str, float]) -> dict[str, int]:
        """Module → rank, without modules that get none."""
        most = {name: min(self.limits[name], self.budget // cost) for name, cost in self.costs.items()}
        requests = [
            ComponentRequest(name, claims[name] / j, cost)
            for name, cost in self.costs.items()
            for j in range(1, most[name] + 1)
        ]
        chosen = decide_components(requests, Ledger(self.budget), released=self.budget)
        return {name: chosen.count(name) for name in self.costs if name in set(chosen)}

    def deployables(self) -> list[Deployable]:
        blocks = self.adapted.blocks
        return [Deployable(Lane.prefix(blocks, head=1 if blocks else RESERVE))]

    @property
    def _probes(self) -> dict[str, ProbeBlock]:
        reserves = {name: layer.reserve for name, layer in self.adapted.layers.items()}
        return {name: block for name, block in reserves.items() if isinstance(block, ProbeBlock)}
