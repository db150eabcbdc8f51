"""Rows of a plan: what one method trains at one budget, or why it cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapad_ray.methods import Method, Plan
from adapad_ray.sweep.planning.cell_factory import NO_POINT, CellFactory
from adapad_ray.training.cell import check_workers
from adapad_ray.training.settings import TrainingSettings


@dataclass(frozen=True)
class Row:
    """One (label, budget) pair of the curve."""

    label: str
    budget: int | None
    """In deployed adapter parameters; None for a method without a budget."""
    plan: Plan
    steps: int
    method: Method[Any]
    """Configured for the first seed."""
    parent: str | None = None
    """Id of the first seed's parent, before tuning: rows with the same parent share its training."""


@dataclass(frozen=True)
class GapRow:
    """One (label, budget) pair that cannot exist."""

    label: str
    budget: int
    reason: str


def plan_row(cells: CellFactory, label: str, budget: int | None, point: Mapping[str, Any] = NO_POINT) -> Row:
    """Plans a label at a budget with the hyperparameters of `point`.

    Raises:
        BudgetTooSmallError: the smallest adapter of this label exceeds the budget.
        BadRequestError: the method cannot be built, or cannot use the number of workers of the file.
    """
    identity = cells.cell("curve", label, budget, cells.spec.seeds[0], point).identity
    method = cells.method(identity)
    check_workers(method, cells.spec.resources.workers)
    steps = TrainingSettings(**identity.training).total_steps(cells.train_examples)
    return Row(label, budget, method.plan(), steps, method, identity.parent)
