"""The cells of `mode: search`: which labels are searched, their spaces, their trials, and the retrained fronts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from adapad_ray.errors import BadRequestError
from adapad_ray.search.settings import BUDGET, SearchStage
from adapad_ray.search.space import Distributions, parse_space, quasi_random_list, whole_numbers
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.cells import Cell, PlannedCell, Wave
from adapad_ray.sweep.planning.rows import Row, plan_row
from adapad_ray.sweep.spec import front_label

SAMPLE = 8
"""Points of a search space from which the cost of a trial is estimated."""


class SearchCells:
    """The search of one sweep, label by label."""

    def __init__(self, cells: CellFactory, stage: SearchStage) -> None:
        self.cells, self._stage = cells, stage
        self._spec = cells.spec

    @cached_property
    def labels(self) -> list[str]:
        """The labels that are searched; by default every label that trains for a budget of its own."""
        chosen = self._stage.methods
        return chosen or [label for label in self._spec.methods if self.why_not_searched(label) is None]

    def why_not_searched(self, label: str) -> str | None:
        """Why a label cannot be searched; None if it can."""
        if not self._spec.has_budget(label):
            return f"{self._spec.method_name(label)} has no budget"
        if self._spec.compute_as(label) is not None:
            return "its training follows that of another label"
        cell = self.cells.cell("curve", label, self.largest_budget(label), self._spec.seeds[0])
        return None if cell.identity.parent is None else "all its budgets are cut from one parent: list them instead"

    def space(self, label: str) -> Distributions:
        """The search space of a label; budgets are whole numbers of parameters."""
        space = self._spec.search_space(label)
        space[BUDGET] = {kind: [self.cells.budget(value) for value in values] for kind, values in space[BUDGET].items()}
        distributions = parse_space(space, "search.space")
        return {**distributions, BUDGET: whole_numbers(distributions[BUDGET])}

    def largest_budget(self, label: str) -> int:
        """The largest budget of a label's search, in parameters."""
        distribution = self.space(label)[BUDGET]
        choices = getattr(distribution, "choices", None)
        return max(choices) if choices else int(distribution.high)  # type: ignore[attr-defined]

    def sample(self, label: str) -> list[Row]:
        """Rows for some points spread over a label's space; points that cannot exist are left out."""
        rows = []
        for point in quasi_random_list(self.space(label), SAMPLE, self._stage.seed):
            try:
                rows.append(plan_row(self.cells, label, point[BUDGET], point))
            except BadRequestError:
                continue
        return rows

    def trial_cell(self, label: str, point: Mapping[str, Any]) -> Cell:
        """The cell that evaluates a point.

        Raises:
            BadRequestError: it cannot exist.
        """
        cell = self.cells.cell("search", label, point[BUDGET], self._stage.seed, point)
        self.cells.method(cell.identity).plan()
        return cell

    def reference_cell(self, label: str) -> Cell:
        """The cell at the largest budget with the settings of the file: it identifies method, settings, model, data."""
        return self.trial_cell(label, {BUDGET: self.largest_budget(label)})

    def front_wave(self, rows: Iterable[Row], fronts: Mapping[str, Iterable[Mapping[str, Any]]]) -> Wave:
        """The cells that retrain every label's front with every seed, without those that the curve has anyway.

        Args:
            rows: the curve's.
            fronts: points of the front, by label.
        """
        cells, seeds = self.cells, self._spec.seeds
        leaders = [row for row in rows if self._spec.compute_as(row.label) is None]
        curve = {cells.cell("curve", row.label, row.budget, seed).id for row in leaders for seed in seeds}
        points = [(label, point) for label, front in fronts.items() for point in front]
        wave = []
        for seed in seeds:
            for label, point in points:
                cell = cells.cell("curve", label, point[BUDGET], seed, point)
                if cell.id not in curve:
                    identity = cell.identity.model_copy(update={"label": front_label(label)})
                    wave.append(PlannedCell(Cell(identity), dict(point), counted=False))
        return wave
