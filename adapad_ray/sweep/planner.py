"""From a sweep's file to its cells: exact parameters per method and budget, and what cannot exist. Trains nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from adapad_ray.budget import BudgetTooSmallError, parse_budget
from adapad_ray.errors import BadRequestError
from adapad_ray.methods import METHODS, Method, Plan
from adapad_ray.models.target_modules import target_modules
from adapad_ray.results import CellIdentity, CellResult
from adapad_ray.search.settings import BUDGET, SearchStage
from adapad_ray.search.space import Distributions, parse_space, quasi_random_list, quasi_random_points, whole_numbers
from adapad_ray.sweep.cells import Cell
from adapad_ray.sweep.spec import SweepSpec, front_label
from adapad_ray.tasks import TaskData
from adapad_ray.training.cell import check_workers, make_method, parent_identity
from adapad_ray.training.settings import TrainingSettings

SAMPLE = 8
"""Points of a search space that stand for all of it when its cost is estimated."""

Winners = Mapping[tuple[str, int | None], Mapping[str, Any]]
"""(label, budget) → the best point of the tune stage; the budget is None where one point serves all budgets."""


@dataclass(frozen=True)
class Grounds:
    """What cells are identified and counted on: the model's structure and digest, and the tokenised data."""

    model: Any
    """The backbone, or its skeleton on the meta device."""
    backbone_parameters: int
    model_digest: str
    data: TaskData
    words: bool = False
    """Whether the texts are counted in words, for want of a tokenizer."""
    assumed: bool = False
    """Whether the data were not read: so many examples of `max_length` tokens are assumed."""
    kept: bool = False
    """Whether the model's sizes are those that this package keeps, as the Hub's configuration is out of reach."""


@dataclass(frozen=True)
class Row:
    """One (label, budget) of the curve as planned."""

    label: str
    budget: int | None
    plan: Plan
    steps: int
    method: Method[Any]
    """As it would train the first seed."""
    parent: str | None = None
    """Id of the first seed's parent with settings as in the file: rows with the same one share their trainings."""


@dataclass(frozen=True)
class GapRow:
    """One (label, budget) that cannot exist, and why."""

    label: str
    budget: int
    reason: str


@dataclass
class SweepPlan:
    """What a sweep consists of, before any result is known."""

    budgets: list[int]
    rows: list[Row] = field(default_factory=list)
    gaps: list[GapRow] = field(default_factory=list)
    searched: dict[str, list[Row]] = field(default_factory=dict)
    """Of `mode: search`, a few cells all over each label's space."""


@dataclass(frozen=True)
class PlannedCell:
    """A cell, and in the tune stage the point of its label's list that it judges."""

    cell: Cell
    point: dict[str, Any]

    @property
    def id(self) -> str:
        """The cell's id."""
        return self.cell.id


Results = Mapping[str, CellResult]
"""Finished cells by id."""


class Planner:
    """Plans one sweep on its grounds."""

    def __init__(self, spec: SweepSpec, grounds: Grounds) -> None:
        self.spec, self.grounds = spec, grounds
        self.modules = {label: target_modules(grounds.model, spec.modules_of(label)) for label in spec.labels()}
        self._everywhere = target_modules(grounds.model, spec.target_modules)

    def plan(self) -> SweepPlan:
        """The whole sweep.

        Raises:
            BadRequestError: a budget that no method can reach, or a tune budget that some method cannot meet.
        """
        budgets = sorted({self.budget(value) for value in self.spec.budgets})
        plan = SweepPlan(budgets)
        for label in self.spec.labels():
            mine = sorted({self.budget(value) for value in self.spec.budgets_of(label)})
            for budget in mine if self._budgeted(label) else [None]:
                try:
                    plan.rows.append(self._row(label, budget))
                except BudgetTooSmallError as error:
                    assert budget is not None
                    plan.gaps.append(GapRow(label, budget, str(error)))
        self._check_followers(plan)
        self._check_distinct(plan)
        reachable = {row.budget for row in plan.rows}
        for budget in budgets:
            if budget not in reachable:
                reasons = [gap.reason for gap in plan.gaps if gap.budget == budget]
                reason = reasons[0] if reasons else "none of them takes a budget"
                raise BadRequestError(f"no method of this sweep can reach budget {budget:,}: {reason}")
        if self.spec.tune is not None and not self.spec.tune.each:
            for label in self.spec.labels():
                try:
                    self._row(label, self._reference_budget(label))
                except BudgetTooSmallError as error:
                    raise BadRequestError(f"tune.budget does not suit {label}: {error}") from error
        if self.spec.search is not None and not self.searched():
            raise BadRequestError(
                "search finds no method to search: add one that trains for a budget, as adapad or lora"
            )
        for label in self.searched():
            self._check_searchable(label)
            plan.searched[label] = self._search_sample(label)
        return plan

    def _check_followers(self, plan: SweepPlan) -> None:
        """A label with `compute_as` has a gap where its leader has one, or spends one pass a step like any method."""
        led = {(row.label, row.budget): row.plan.lanes for row in plan.rows}
        for row in [row for row in plan.rows if self.spec.compute_as(row.label) is not None]:
            leader = self.spec.compute_as(row.label)
            assert leader is not None and row.budget is not None
            if max((passes for (label, _), passes in led.items() if label == leader), default=1) == 1:
                raise BadRequestError(
                    f"methods.{row.label}.compute_as is {leader}, which spends one pass a step as any method: remove it"
                )
            passes = led.get((leader, row.budget), 0)
            if passes < 2:
                reason = "has a gap here" if passes == 0 else "spends one pass a step here"
                plan.rows.remove(row)
                plan.gaps.append(GapRow(row.label, row.budget, f"{leader}, whose compute it follows, {reason}"))

    def _check_distinct(self, plan: SweepPlan) -> None:
        seen: dict[str, str] = {}
        for row in plan.rows:
            if self.spec.compute_as(row.label) is not None:
                continue
            cell = self._cell("curve", row.label, row.budget, self.spec.seeds[0], {})
            other = seen.setdefault(cell.id, row.label)
            if other != row.label:
                raise BadRequestError(f"methods.{other} and methods.{row.label} describe the same cells: remove one")

    def budget(self, value: int | float | str) -> int:
        """Deployed adapter parameters of a budget as the file writes it."""
        return parse_budget(value, modules=self._everywhere, backbone_parameters=self.grounds.backbone_parameters)

    def waves(self, plan: SweepPlan, results: Results) -> Iterator[list[PlannedCell]]:
        """The cells in the order in which they can be known; `results` must hold a wave's results before the next.

        First the tune stage, then the curve; in each, labels with `compute_as` come after the labels that they follow,
        and post-hoc cells after the parents that they share. A cell whose predecessors have no result (they failed) is
        left out.
        """
        for following in (False, True):
            yield from self._after_parents(self._tune_wave(following, results), results)
        winners = self.winners(results)
        for following in (False, True):
            yield from self._after_parents(self._curve_wave(plan, following, winners, results), results)

    def winners(self, results: Results) -> Winners:
        """The best finished point by the validation metric; ties go to the earlier point."""
        scored: dict[tuple[str, int | None], list[tuple[float, dict[str, Any]]]] = {}
        for label in self.spec.labels():
            for p in self.tuned(label, results):
                if p.id in results:
                    key = self._tuned_as(label, p.cell.identity.budget)
                    scored.setdefault(key, []).append((results[p.id].score, p.point))
        return {key: max(found, key=lambda item: item[0])[1] for key, found in scored.items()}

    def tuned(self, label: str, results: Results) -> list[PlannedCell]:
        """A label's cells of the tune stage; none while those are not known whose compute it follows."""
        wave = self._tune_wave(self.spec.compute_as(label) is not None, results)
        return [planned for planned in wave if planned.cell.identity.label == label]

    def study(self, planned: PlannedCell) -> str:
        """The name, in its sweep, of the Optuna study that a cell of the tune stage belongs to."""
        label, budget = self._tuned_as(planned.cell.identity.label, planned.cell.identity.budget)
        return label if budget is None else f"{label}@{budget}"

    def count(self, plan: SweepPlan) -> int:
        """Cells of the whole sweep."""
        stage = self.spec.tune
        trials = 0 if stage is None else stage.trials * len(plan.rows if stage.each else self.spec.labels())
        if self.spec.search is not None:
            trials += self.spec.search.trials * len(self.searched())
        return trials + len(plan.rows) * len(self.spec.seeds)

    def searched(self) -> list[str]:
        """The labels that `mode: search` searches; by default all that train for a budget of their own."""
        stage = self.spec.search
        if stage is None:
            return []
        return stage.methods or [label for label in self.spec.methods if self._why_not_searched(label) is None]

    def search_space(self, label: str) -> Distributions:
        """The space of a label's search, budgets as whole numbers of parameters."""
        space = self.spec.search_space(label)
        space[BUDGET] = {kind: [self.budget(value) for value in values] for kind, values in space[BUDGET].items()}
        distributions = parse_space(space, "search.space")
        return {**distributions, BUDGET: whole_numbers(distributions[BUDGET])}

    def search_cell(self, label: str, point: Mapping[str, Any]) -> Cell:
        """The cell that judges a point.

        Raises:
            BadRequestError: it cannot exist.
        """
        cell = self._cell("search", label, point[BUDGET], self._search.seed, point)
        self._method(cell.identity).plan()
        return cell

    def search_origin(self, label: str) -> Cell:
        """The cell of a label's search with the settings of the file and the largest budget."""
        return self.search_cell(label, {BUDGET: self._largest(label)})

    def front_wave(self, plan: SweepPlan, fronts: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[PlannedCell]:
        """The cells that train every label's front again, with every seed; not those that the curve has anyway."""
        known = {planned.id for planned in self._curve_wave(plan, False, {}, {})}
        rows = [(label, point) for label, points in fronts.items() for point in points]
        wave = []
        for seed in self.spec.seeds:
            for label, point in rows:
                cell = self._cell("curve", label, point[BUDGET], seed, point)
                if cell.id not in known:
                    identity = cell.identity.model_copy(update={"label": front_label(label)})
                    wave.append(PlannedCell(Cell(identity), dict(point)))
        return wave

    @property
    def _search(self) -> SearchStage:
        assert self.spec.search is not None
        return self.spec.search

    def _why_not_searched(self, label: str) -> str | None:
        """Why a label has no search of its own: the budget is what a search is about."""
        if not self._budgeted(label):
            return f"{self.spec.method_name(label)} has no budget"
        if self.spec.compute_as(label) is not None:
            return "its training follows that of another label"
        identity = self._cell("curve", label, self._largest(label), self.spec.seeds[0], {}).identity
        return None if identity.parent is None else "one parent serves all its budgets, which are cheap to list"

    def _largest(self, label: str) -> int:
        """The largest budget of a label's search."""
        distribution = self.search_space(label)[BUDGET]
        choices = getattr(distribution, "choices", None)
        return max(choices) if choices else int(distribution.high)

    def _search_sample(self, label: str) -> list[Row]:
        """A few cells all over a label's space, to estimate a trial's cost; those that cannot exist are left out."""
        rows = []
        for point in quasi_random_list(self.search_space(label), SAMPLE, self._search.seed):
            try:
                rows.append(self._row(label, point[BUDGET], point))
            except BadRequestError:
                continue
        return rows

    def _check_searchable(self, label: str) -> None:
        reason = self._why_not_searched(label)
        if reason is not None:
            raise BadRequestError(f"search.methods has {label}, which cannot be searched: {reason}")
        try:
            self._row(label, self._largest(label))
        except BudgetTooSmallError as error:
            raise BadRequestError(f"search.space.budget does not suit {label}: {error}") from error

    def _budgeted(self, label: str) -> bool:
        return METHODS[self.spec.method_name(label)].budgeted

    def _reference_budget(self, label: str) -> int | None:
        assert self.spec.tune is not None
        return self.budget(self.spec.tune.budget) if self._budgeted(label) else None

    @cached_property
    def _tuned_budgets(self) -> dict[str, list[int | None]]:
        """By label, the budgets at which it is tuned."""
        assert self.spec.tune is not None
        if not self.spec.tune.each:
            return {label: [self._reference_budget(label)] for label in self.spec.labels()}
        rows = self.plan().rows
        return {label: [row.budget for row in rows if row.label == label] for label in self.spec.labels()}

    def _tuned_as(self, label: str, budget: int | None) -> tuple[str, int | None]:
        """Whose winner a (label, budget) of the curve takes."""
        return label, budget if self.spec.tune is not None and self.spec.tune.each else None

    def _after_parents(self, wave: list[PlannedCell], results: Results) -> Iterator[list[PlannedCell]]:
        """The wave, or two of them where some of its cells have parents: each parent is planned once."""
        parents: dict[str, PlannedCell] = {}
        for planned in wave:
            parent = self._parent(planned.cell.identity)
            if parent is not None:
                parents.setdefault(parent.id, PlannedCell(parent, {}))
        if parents:
            # Tune takes the cells of its stage together; on the curve, others need not wait for parents.
            now = [p for p in wave if p.cell.identity.parent is None and p.cell.identity.stage == "curve"]
            yield [*parents.values(), *now]
            ids = {p.id for p in now}
            wave = [p for p in wave if p.id not in ids and _has_parent(p, results)]
        yield wave

    def _tune_wave(self, following: bool, results: Results) -> list[PlannedCell]:
        stage = self.spec.tune
        if stage is None:
            return []
        wave = []
        for label in self._labels(following):
            leader = self.spec.compute_as(label)
            for budget in self._tuned_budgets[label]:
                stretch: float | None = 1.0
                if leader is not None:
                    led = self._tune_cells(leader, budget, 1.0)
                    stretch = _passes_per_step(r for p in led if (r := results.get(p.id)))
                if stretch is not None:
                    wave += self._tune_cells(label, budget, stretch)
        return wave

    def _tune_cells(self, label: str, budget: int | None, stretch: float) -> list[PlannedCell]:
        stage = self.spec.tune
        assert stage is not None
        points = quasi_random_points(self.spec.tune_space(label), stage.trials, stage.seed)
        return [PlannedCell(self._cell("tune", label, budget, stage.seed, p, stretch), p) for p in points]

    def _curve_wave(self, plan: SweepPlan, following: bool, winners: Winners, results: Results) -> list[PlannedCell]:
        """Seeds outermost, so that early results say something of all methods."""
        wave = []
        labels = self._labels(following)
        for seed in self.spec.seeds:
            for row in plan.rows:
                key = self._tuned_as(row.label, row.budget)
                if row.label not in labels or (self.spec.tune is not None and key not in winners):
                    continue
                point = dict(winners.get(key, {}))
                leader = self.spec.compute_as(row.label)
                stretch: float | None = 1.0
                if leader is not None:
                    led = self._cell("curve", leader, row.budget, seed, winners.get((leader, key[1]), {}))
                    stretch = _passes_per_step(r for r in [results.get(led.id)] if r)
                if stretch is not None:
                    wave.append(PlannedCell(self._cell("curve", row.label, row.budget, seed, point, stretch), point))
        return wave

    def _labels(self, following: bool) -> list[str]:
        return [label for label in self.spec.labels() if (self.spec.compute_as(label) is not None) == following]

    def _row(self, label: str, budget: int | None, point: Mapping[str, Any] = MappingProxyType({})) -> Row:
        cell = self._cell("curve", label, budget, self.spec.seeds[0], point)
        examples = len(self.grounds.data.splits["train"])
        method = self._method(cell.identity)
        check_workers(method, self.spec.resources.workers)
        settings = TrainingSettings(**cell.identity.training)
        return Row(label, budget, method.plan(), settings.total_steps(examples), method, cell.identity.parent)

    def _method(self, identity: CellIdentity) -> Method[Any]:
        examples = len(self.grounds.data.splits["train"])
        return make_method(identity, self.modules[identity.label], examples, self.grounds.backbone_parameters)

    def _parent(self, identity: CellIdentity) -> Cell | None:
        """The cell whose adapter a post-hoc cell cuts."""
        parent = parent_identity(identity, self._method(identity))
        return None if parent is None else Cell(parent)

    def _cell(
        self, stage: Any, label: str, budget: int | None, seed: int, point: Mapping[str, Any], stretch: float = 1.0
    ) -> Cell:
        """The cell, trained for `stretch` times the epochs that its settings say."""
        spec, name = self.spec, self.spec.method_name(label)
        training = spec.training_settings(label, point)
        if stretch != 1.0:
            training = training.model_copy(update={"epochs": float(f"{training.epochs * stretch:.4g}")})
        identity = CellIdentity(
            stage=stage,
            label=label,
            method=name,
            method_version=METHODS[name].version,
            config=spec.method_settings(label, point),
            training=training.model_dump(mode="json"),
            model=os.path.basename(spec.model.rstrip("/")) or spec.model,
            model_digest=self.grounds.model_digest,
            task=spec.task if isinstance(spec.task, str) else self.grounds.data.name,
            data_digest=self.grounds.data.digest,
            target_modules=tuple(m.name for m in self.modules[label]),
            budget=budget,
            seed=seed,
            dtype=spec.dtype,
            threads=max(1, int(spec.resources.cpus_per_worker)),
        )
        parent = self._parent(identity)
        return Cell(identity if parent is None else identity.model_copy(update={"parent": parent.id}))


def _has_parent(planned: PlannedCell, results: Results) -> bool:
    """Whether a cell's parent is there, where it has one."""
    parent = planned.cell.identity.parent
    return parent is None or parent in results


def _passes_per_step(results: Iterable[CellResult]) -> float | None:
    """Forward-and-backward passes per optimizer step, mean over the given cells; None where there are none."""
    ratios = [result.cost.lane_passes / result.cost.steps for result in results]
    return sum(ratios) / len(ratios) if ratios else None
