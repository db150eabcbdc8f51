"""The cells of the curve: every label at every budget with every seed."""

from __future__ import annotations

from collections.abc import Iterator

from adapad_ray.sweep.planning.cell_factory import NO_POINT, CellFactory
from adapad_ray.sweep.planning.cells import PlannedCell, Results, Wave
from adapad_ray.sweep.planning.plan import SweepPlan
from adapad_ray.sweep.planning.tune_cells import Winners, winner_key
from adapad_ray.sweep.planning.waves import leaders_first, parents_first, passes_per_step


class CurveCells:
    """The curve of one sweep."""

    def __init__(self, cells: CellFactory, plan: SweepPlan) -> None:
        self._cells, self._plan = cells, plan
        self._spec = cells.spec

    def waves(self, winners: Winners | None, results: Results) -> Iterator[Wave]:
        """Yields the cells wave by wave; `results` must hold the results of a wave before the next is taken.

        Labels with `compute_as` come after their leaders, post-hoc cells after their parents. A cell is left out if
        those that it depends on have no result, or its label has no winner.

        Args:
            winners: tuned hyperparameters; None without a tune stage: the settings of the file.
        """
        for labels in leaders_first(self._spec):
            yield from parents_first(self._cells, self._wave(labels, winners, results), results)

    def independent(self, label: str, winners: Winners) -> Wave:
        """The cells of one label that need no other cell: none with `compute_as`, or with a parent."""
        if self._spec.compute_as(label) is not None:
            return []
        return [planned for planned in self._wave([label], winners, {}) if planned.cell.identity.parent is None]

    def _wave(self, labels: list[str], winners: Winners | None, results: Results) -> Wave:
        wave: Wave = []
        for seed in self._spec.seeds:  # outermost, so that early results cover all methods
            for row in self._plan.rows:
                key = winner_key(self._spec, row.label, row.budget)
                if row.label not in labels or (winners is not None and key not in winners):
                    continue
                factor = self._epochs_factor(row.label, row.budget, seed, winners, results)
                if factor is not None:
                    point = NO_POINT if winners is None else winners[key]
                    cell = self._cells.cell("curve", row.label, row.budget, seed, point, factor)
                    wave.append(PlannedCell(cell, point))
        return wave

    def _epochs_factor(
        self, label: str, budget: int | None, seed: int, winners: Winners | None, results: Results
    ) -> float | None:
        """How many times the epochs of the file a label trains; None if its leader has no result."""
        leader = self._spec.compute_as(label)
        if leader is None:
            return 1.0
        point = (winners or {}).get(winner_key(self._spec, leader, budget), NO_POINT)
        led = self._cells.cell("curve", leader, budget, seed, point)
        return passes_per_step([results[led.id]] if led.id in results else [])
