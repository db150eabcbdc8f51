"""The cells of the tune stage, and the points that win it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from typing import Any

from adapad_ray.report.edges import best_of, edges_of
from adapad_ray.search.settings import ENDS, TuneStage
from adapad_ray.search.space import interpolated, parse_space, quasi_random_points
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.cells import PlannedCell, Results, Wave
from adapad_ray.sweep.planning.plan import SweepPlan, tuned_labels, tuned_rows
from adapad_ray.sweep.planning.waves import leaders_first, parents_first, passes_per_step
from adapad_ray.sweep.spec import SweepSpec

WinnerKey = tuple[str, int | None]
"""(label, budget); the budget is None if one point serves all budgets of the label."""
Winners = Mapping[WinnerKey, Mapping[str, Any]]
"""The best point of the tune stage."""


class TuneCells:
    """The tune stage of one sweep: every label at the same number of points of a quasi-random list."""

    def __init__(self, cells: CellFactory, plan: SweepPlan, stage: TuneStage) -> None:
        self._cells, self._plan, self._stage = cells, plan, stage
        self._spec = cells.spec
        self._points: dict[str, list[dict[str, Any]]] = {}

    def waves(self, results: Results) -> Iterator[Wave]:
        """Yields the cells wave by wave; `results` must hold the results of a wave before the next is taken.

        Labels with `compute_as` come after their leaders, post-hoc cells after their parents. A cell is left out if
        those that it depends on have no result.
        """
        for labels in leaders_first(self._spec):
            wave = [planned for label in labels for planned in self.of_label(label, results)]
            yield from parents_first(self._cells, wave, results)

    def of_label(self, label: str, results: Results) -> Wave:
        """The cells of one label; none at budgets where its leader, if it has one, has no result yet."""
        leader, wave = self._spec.compute_as(label), []
        for budget in self._budgets[label]:
            factor: float | None = 1.0
            if leader is not None:
                led = self._at_budget(leader, budget, 1.0)
                factor = passes_per_step(results[p.id] for p in led if p.id in results)
            if factor is not None:
                wave += self._at_budget(label, budget, factor)
        return wave

    def winners(self, results: Results) -> Winners:
        """The best finished point of each label, interpolated where `tune.budget` is `ends`.

        The best has the largest `tuning_score`; `best_of` decides a tie.
        """
        winners: dict[WinnerKey, Mapping[str, Any]] = {}
        for label in self._spec.labels():
            winners |= self.winners_of(label, results)
        return winners

    def winners_of(self, label: str, results: Results) -> Winners:
        """Those of one label."""
        best = {key: best_of(tried) for key, tried in self._tried(label, results).items()}
        return self._interpolated(label, best) if self._stage.budget == ENDS else best

    def edges(self, results: Results, stopped: Collection[str] = ()) -> list[str]:
        """A sentence for every setting whose best value is the smallest or the largest of those tried.

        Args:
            stopped: ids of the cells that were stopped early.
        """
        sentences = []
        for label in self._spec.labels():
            for (_, budget), tried in self._tried(label, results, stopped).items():
                at = "" if budget is None else f" at {budget:,}"
                for edge in edges_of(tried):
                    sentences.append(f"{label}{at}: {edge}")
        return sentences

    def _tried(
        self, label: str, results: Results, stopped: Collection[str] = ()
    ) -> dict[WinnerKey, list[tuple[float, Mapping[str, Any]]]]:
        """The finished points of a label with their scores, and the stopped ones, by the key of the winner."""
        tried: dict[WinnerKey, list[tuple[float, Mapping[str, Any]]]] = {}
        for planned in self.of_label(label, results):
            if planned.id in results or planned.id in stopped:
                key = winner_key(self._spec, label, planned.cell.identity.budget)
                score = results[planned.id].tuning_score if planned.id in results else -math.inf
                tried.setdefault(key, []).append((score, planned.point))
        return tried

    def _interpolated(
        self, label: str, best: Mapping[WinnerKey, Mapping[str, Any]]
    ) -> dict[WinnerKey, Mapping[str, Any]]:
        """A point for every budget of the label: between its tuned budgets, in the logarithm of the budget."""
        if not best:
            return {}
        known = sorted(best, key=lambda key: key[1] or 0)
        low, high = known[0], known[-1]
        space = parse_space(self._spec.tune_space(label))
        points: dict[WinnerKey, Mapping[str, Any]] = {}
        for row in self._plan.rows:
            if row.label == label:
                share = 0.0
                if row.budget is not None and low[1] is not None and high[1] is not None and low != high:
                    share = math.log(row.budget / low[1]) / math.log(high[1] / low[1])
                points[winner_key(self._spec, label, row.budget)] = interpolated(space, best[low], best[high], share)
        return points

    def study(self, planned: PlannedCell) -> str:
        """Name, within the sweep, of the Optuna study of a cell: `lora`, or `lora@41472` if each budget is tuned."""
        label, budget = winner_key(self._spec, planned.cell.identity.label, planned.cell.identity.budget)
        return label if budget is None else f"{label}@{budget}"

    @cached_property
    def _budgets(self) -> dict[str, list[int | None]]:
        """The budgets at which each label is tuned."""
        spec = self._spec
        if self._stage.by_budget:
            rows = tuned_rows(spec, self._plan.rows)
            return {label: [row.budget for row in rows if row.label == label] for label in spec.labels()}
        reference = self._cells.budget(self._stage.budget)
        tuned = tuned_labels(spec, self._plan.rows)
        budgets = {label: [reference if spec.has_budget(label) else None] for label in tuned}
        return {label: budgets.get(label, []) for label in spec.labels()}

    def _at_budget(self, label: str, budget: int | None, epochs_factor: float) -> Wave:
        if label not in self._points:
            space = self._spec.tune_space(label)
            self._points[label] = quasi_random_points(space, self._stage.trials, self._stage.seed)
        seed = self._stage.seed
        return [
            PlannedCell(self._cells.cell("tune", label, budget, seed, point, epochs_factor), point)
            for point in self._points[label]
        ]


def winner_key(spec: SweepSpec, label: str, budget: int | None) -> WinnerKey:
    """The key of the winner that a label takes at a budget of the curve."""
    return label, budget if spec.tune is not None and spec.tune.by_budget else None
