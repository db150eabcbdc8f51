"""The plan of a sweep: which methods train at which budgets, where the gaps are, and how many cells there will be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from adapad_ray.budget import BudgetTooSmallError
from adapad_ray.methods.plan import QuantizedBackboneError
from adapad_ray.sweep.planning import checks
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.cells import lane_steps
from adapad_ray.sweep.planning.rows import GapRow, Row, plan_row
from adapad_ray.sweep.planning.search_cells import SearchCells
from adapad_ray.sweep.spec import SweepSpec


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep consists of, before any result exists."""

    budgets: list[int]
    """In deployed adapter parameters, ascending."""
    rows: list[Row]
    gaps: list[GapRow]
    cells: int
    """Number of cells, without parents and without the retrained front of a search."""
    searched: dict[str, list[Row]] = field(default_factory=dict)
    """For `mode: search`: some rows from each label's search space, to estimate the cost of a trial."""

    @property
    def mean_lane_steps(self) -> float:
        """Forward and backward passes of a cell of the curve at most, as a mean over the rows."""
        passes = [lane_steps(row.method, row.plan) for row in self.rows]
        return sum(passes) / max(1, len(passes))


def plan_sweep(cells: CellFactory) -> SweepPlan:
    """Plans the whole sweep.

    Raises:
        BadRequestError: no method can reach a budget, a method cannot meet the tune budget, two labels describe the
            same cells, or a label cannot be searched.
    """
    spec = cells.spec
    budgets = sorted({cells.budget(value) for value in spec.budgets})
    rows, gaps = _rows(cells)
    checks.check_leaders(spec, rows)
    rows, gaps = _with_gaps_of_followers(spec, rows, gaps)
    checks.check_distinct(cells, rows)
    checks.check_reachable(budgets, rows, gaps)
    checks.check_tune_budget(cells)
    searched = {}
    if spec.search is not None:
        search = SearchCells(cells, spec.search)
        checks.check_searched(search)
        searched = {label: search.sample(label) for label in search.labels}
    return SweepPlan(budgets, rows, gaps, _count(spec, rows, len(searched)), searched)


def _rows(cells: CellFactory) -> tuple[list[Row], list[GapRow]]:
    spec = cells.spec
    rows, gaps = [], []
    for label in spec.labels():
        if not spec.has_budget(label):
            try:
                rows.append(plan_row(cells, label, None))
            except QuantizedBackboneError as error:
                gaps.append(GapRow(label, cells.inputs.backbone_parameters, str(error)))
            continue
        for budget in sorted({cells.budget(value) for value in spec.budgets_of(label)}):
            try:
                rows.append(plan_row(cells, label, budget))
            except (BudgetTooSmallError, QuantizedBackboneError) as error:
                gaps.append(GapRow(label, budget, str(error)))
    return rows, gaps


def _with_gaps_of_followers(spec: SweepSpec, rows: list[Row], gaps: list[GapRow]) -> tuple[list[Row], list[GapRow]]:
    """Turns rows of labels with `compute_as` into gaps where their leader has a gap or trains only one lane."""
    lanes = {(row.label, row.budget): row.plan.lanes for row in rows}
    kept, added = [], []
    for row in rows:
        leader = spec.compute_as(row.label)
        led_by = None if leader is None else lanes.get((leader, row.budget), 0)
        if led_by is None or led_by >= 2:
            kept.append(row)
            continue
        assert row.budget is not None, "labels without a budget have no compute_as"
        problem = "has a gap here" if led_by == 0 else "trains one lane here"
        added.append(GapRow(row.label, row.budget, f"{leader}, whose compute it is given, {problem}"))
    return kept, gaps + added


def _count(spec: SweepSpec, rows: list[Row], searched: int) -> int:
    count = len(rows) * len(spec.seeds) + tune_cells(spec, rows)
    if spec.search is not None:
        count += spec.search.trials * searched
    return count


def tune_cells(spec: SweepSpec, rows: Sequence[Row]) -> int:
    """How many cells the tune stage has."""
    if spec.tune is None:
        return 0
    by_budget = spec.tune.by_budget
    labels = [row.label for row in tuned_rows(spec, rows)] if by_budget else tuned_labels(spec, rows)
    return sum(map(spec.tune_trials, labels))


def tuned_labels(spec: SweepSpec, rows: Iterable[Row]) -> list[str]:
    """The labels that are tuned where all budgets share settings: all but those without a budget that have a gap."""
    trained = {row.label for row in rows}
    return [label for label in spec.labels() if spec.has_budget(label) or label in trained]


def tuned_rows(spec: SweepSpec, rows: Iterable[Row]) -> list[Row]:
    """The rows whose budgets are tuned, where budgets have settings of their own."""
    assert spec.tune is not None
    tuned = []
    for label in spec.labels():
        own = sorted((row for row in rows if row.label == label), key=lambda row: row.budget or 0)
        budgets = spec.tune.tuned_budgets([row.budget for row in own]) if own else []
        tuned += [row for row in own if row.budget in budgets]
    return tuned
