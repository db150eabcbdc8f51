"""Rejects plans that make no sense, before anything is trained. Every check raises `BadRequestError`."""

from __future__ import annotations

from collections.abc import Sequence

from adapad_ray.budget import BudgetTooSmallError
from adapad_ray.errors import BadRequestError
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.rows import GapRow, Row, plan_row
from adapad_ray.sweep.planning.search_cells import SearchCells
from adapad_ray.sweep.spec import SweepSpec


def check_leaders(spec: SweepSpec, rows: Sequence[Row]) -> None:
    """Rejects a `compute_as` whose leader trains one lane at every budget: there is nothing to match."""
    for label in dict.fromkeys(row.label for row in rows):
        leader = spec.compute_as(label)
        if leader is not None and max((row.plan.lanes for row in rows if row.label == leader), default=1) == 1:
            raise BadRequestError(
                f"methods.{label}.compute_as is {leader}, which trains one lane, as {label} does: remove it"
            )


def check_distinct(cells: CellFactory, rows: Sequence[Row]) -> None:
    """Rejects two labels that describe the same cells."""
    label_of: dict[str, str] = {}
    for row in rows:
        if cells.spec.compute_as(row.label) is not None:
            continue
        cell = cells.cell("curve", row.label, row.budget, cells.spec.seeds[0])
        other = label_of.setdefault(cell.id, row.label)
        if other != row.label:
            spaces = any(cells.spec.entry(label).space is not None for label in (other, row.label))
            but = ", whatever their spaces" if spaces else ""
            raise BadRequestError(f"methods.{other} and methods.{row.label} describe the same cells{but}: remove one")


def check_reachable(budgets: Sequence[int], rows: Sequence[Row], gaps: Sequence[GapRow]) -> None:
    """Rejects a budget that no method of the sweep can reach."""
    reachable = {row.budget for row in rows}
    for budget in budgets:
        if budget not in reachable:
            labels: dict[str, list[str]] = {}
            for gap in gaps:
                if gap.budget == budget:
                    labels.setdefault(gap.reason, []).append(gap.label)
            each = "; ".join(f"{', '.join(named)}: {reason}" for reason, named in labels.items())
            raise BadRequestError(
                f"no method of this sweep can reach budget {budget:,} ({each or 'none of them has a budget'})"
            )


def check_tune_budget(cells: CellFactory) -> None:
    """Rejects a reference budget that some label cannot meet."""
    spec = cells.spec
    if spec.tune is None or spec.tune.by_budget:
        return
    for label in filter(spec.has_budget, spec.labels()):
        try:
            plan_row(cells, label, cells.budget(spec.tune.budget))
        except BudgetTooSmallError as error:
            raise BadRequestError(f"tune.budget does not suit {label}: {error}") from error


def check_searched(search: SearchCells) -> None:
    """Rejects a search without labels, with labels that cannot be searched, or with budgets that are too small."""
    if not search.labels:
        raise BadRequestError("search has no method to search: add one that trains for a budget, as adapad or lora")
    for label in search.labels:
        reason = search.why_not_searched(label)
        if reason is not None:
            raise BadRequestError(f"search.methods has {label}, which cannot be searched: {reason}")
        try:
            plan_row(search.cells, label, search.largest_budget(label))
        except BudgetTooSmallError as error:
            raise BadRequestError(f"search.space.budget does not suit {label}: {error}") from error
    for label, entry in search.cells.spec.methods.items():
        if entry.space is not None and label not in search.labels:
            reason = search.why_not_searched(label) or "it is not among search.methods"
            raise BadRequestError(f"methods.{label}.space is given, but {label} is not searched: {reason}")
