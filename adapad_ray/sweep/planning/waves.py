"""The order of cells: parents before the cells that cut them, leaders before the labels that follow their compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from adapad_ray.results import CellResult
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.cells import PlannedCell, Results, Wave
from adapad_ray.sweep.spec import SweepSpec


def leaders_first(spec: SweepSpec) -> tuple[list[str], list[str]]:
    """The labels without `compute_as`, and those with it."""
    labels = spec.labels()
    leaders = [label for label in labels if spec.compute_as(label) is None]
    return leaders, [label for label in labels if label not in leaders]


def parents_first(cells: CellFactory, wave: Wave, results: Results) -> Iterator[Wave]:
    """Yields the wave, or two waves if some of its cells have parents; each parent is planned once.

    Cells of the curve without a parent are in the first of the two: they need not wait. Cells of the tune stage stay
    together. A cell whose parent has no result (it failed) is left out.
    """
    parents: dict[str, PlannedCell] = {}
    for planned in wave:
        parent = cells.parent(planned.cell)
        if parent is not None:
            parents.setdefault(parent.id, PlannedCell(parent, {}, counted=False))
    if parents:
        first = [p for p in wave if p.cell.identity.parent is None and p.stage == "curve"]
        yield [*parents.values(), *first]
        ids = {p.id for p in first}
        wave = [p for p in wave if p.id not in ids and _parent_is_finished(p, results)]
    yield wave


def passes_per_step(results: Iterable[CellResult]) -> float | None:
    """Forward-and-backward passes per optimizer step, as a mean over the given cells; None without cells."""
    ratios = [result.cost.lane_passes / result.cost.steps for result in results]
    return sum(ratios) / len(ratios) if ratios else None


def _parent_is_finished(planned: PlannedCell, results: Results) -> bool:
    parent = planned.cell.identity.parent
    return parent is None or parent in results
