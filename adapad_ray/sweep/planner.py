"""From a sweep's file to its cells: exact parameters per method and budget, and what cannot exist. Trains nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adapad_ray.budget import BudgetTooSmallError, ModuleShape, parse_budget
from adapad_ray.errors import BadRequestError
from adapad_ray.methods import METHODS, Plan
from adapad_ray.models import target_modules
from adapad_ray.results import CellIdentity
from adapad_ray.sweep.cells import Cell
from adapad_ray.sweep.points import quasi_random_points
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.tasks import TaskData
from adapad_ray.training.cell import make_method
from adapad_ray.training.settings import TrainingSettings

Winners = Mapping[str, Mapping[str, Any]]
"""Label → its best point of the tune stage."""


@dataclass(frozen=True)
class Grounds:
    """What cells are identified and counted on: the model's structure and digest, and the tokenised data."""

    model: Any
    """The backbone, or its skeleton on the meta device."""
    backbone_parameters: int
    model_digest: str
    data: TaskData


@dataclass(frozen=True)
class Row:
    """One (label, budget) of the curve as planned."""

    label: str
    budget: int | None
    plan: Plan
    steps: int


@dataclass(frozen=True)
class GapRow:
    """One (label, budget) that cannot exist, and why."""

    label: str
    budget: int
    reason: str


@dataclass
class SweepPlan:
    """Everything that a sweep will compute, once the tune stage has chosen."""

    budgets: list[int]
    rows: list[Row] = field(default_factory=list)
    gaps: list[GapRow] = field(default_factory=list)
    tune: dict[str, list[tuple[dict[str, Any], Cell]]] = field(default_factory=dict)
    """Label → the points of its list and their cells."""


class Planner:
    """Plans one sweep on its grounds."""

    def __init__(self, spec: SweepSpec, grounds: Grounds) -> None:
        self.spec, self.grounds = spec, grounds
        self.modules = {label: target_modules(grounds.model, spec.modules_of(label)) for label in spec.labels()}
        self._everywhere = target_modules(grounds.model, spec.target_modules)

    def plan(self) -> SweepPlan:
        """The whole sweep.

        Raises:
            BadRequestError: a budget that no method can reach, a method that no budget suits, or a tune budget that
                some method cannot meet.
        """
        budgets = sorted({self.budget(value) for value in self.spec.budgets})
        plan = SweepPlan(budgets)
        for label in self.spec.labels():
            for budget in budgets if METHODS[self.spec.method_name(label)].budgeted else [None]:
                try:
                    plan.rows.append(self._row(label, budget))
                except BudgetTooSmallError as error:
                    assert budget is not None
                    plan.gaps.append(GapRow(label, budget, str(error)))
        reachable = {row.budget for row in plan.rows}
        for budget in budgets:
            if budget not in reachable:
                reasons = [gap.reason for gap in plan.gaps if gap.budget == budget]
                reason = reasons[0] if reasons else "none of them takes a budget"
                raise BadRequestError(f"no method of this sweep can reach budget {budget:,}: {reason}")
        if self.spec.tune is not None:
            for label in self.spec.labels():
                plan.tune[label] = self._tune_cells(label)
        return plan

    def budget(self, value: int | float | str) -> int:
        """Deployed adapter parameters of a budget as the file writes it."""
        return parse_budget(value, modules=self._everywhere, backbone_parameters=self.grounds.backbone_parameters)

    def curve_cells(self, plan: SweepPlan, winners: Winners) -> list[Cell]:
        """Every (label, budget, seed), seeds outermost so that early results say something of all methods."""
        cells = []
        for seed in self.spec.seeds:
            for row in plan.rows:
                point = winners.get(row.label, {})
                cells.append(self._cell("curve", row.label, row.budget, seed, point))
        return cells

    def _tune_cells(self, label: str) -> list[tuple[dict[str, Any], Cell]]:
        stage = self.spec.tune
        assert stage is not None
        budget = self.budget(stage.budget) if METHODS[self.spec.method_name(label)].budgeted else None
        try:
            self._row(label, budget)
        except BudgetTooSmallError as error:
            raise BadRequestError(f"tune.budget does not suit {label}: {error}") from error
        points = quasi_random_points(self.spec.tune_space(label), stage.trials, stage.seed)
        return [(point, self._cell("tune", label, budget, stage.seed, point)) for point in points]

    def _row(self, label: str, budget: int | None) -> Row:
        cell = self._cell("curve", label, budget, self.spec.seeds[0], {})
        examples = len(self.grounds.data.splits["train"])
        method = make_method(cell.identity, self.modules[label], examples)
        settings = TrainingSettings(**cell.identity.training)
        return Row(label, budget, method.plan(), settings.total_steps(examples))

    def _cell(self, stage: Any, label: str, budget: int | None, seed: int, point: Mapping[str, Any]) -> Cell:
        spec, name = self.spec, self.spec.method_name(label)
        task = spec.task if isinstance(spec.task, str) else self.grounds.data.name
        modules: tuple[ModuleShape, ...] = self.modules[label]
        return Cell(
            CellIdentity(
                stage=stage,
                label=label,
                method=name,
                method_version=METHODS[name].version,
                config=spec.method_settings(label, point),
                training=spec.training_settings(label, point).model_dump(mode="json"),
                model=os.path.basename(spec.model.rstrip("/")) or spec.model,
                model_digest=self.grounds.model_digest,
                task=task,
                data_digest=self.grounds.data.digest,
                target_modules=tuple(m.name for m in modules),
                budget=budget,
                seed=seed,
                dtype=spec.dtype,
                threads=max(1, int(spec.resources.cpus_per_worker)),
            )
        )
