"""Which stages a sweep has."""

from __future__ import annotations

from pathlib import Path

from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.curve_cells import CurveCells
from adapad_ray.sweep.planning.early_stopping import EarlyStopping
from adapad_ray.sweep.planning.plan import SweepPlan
from adapad_ray.sweep.planning.search_cells import SearchCells
from adapad_ray.sweep.planning.tune_cells import TuneCells
from adapad_ray.sweep.stages.base import Stage
from adapad_ray.sweep.stages.curve import Curve
from adapad_ray.sweep.stages.front import Front
from adapad_ray.sweep.stages.search import Search
from adapad_ray.sweep.stages.tune import Tune


def build_stages(cells: CellFactory, plan: SweepPlan, folder: Path) -> list[Stage]:
    """The stages of a sweep in the order in which they run; opens the studies of a search in `folder`."""
    spec, curve = cells.spec, CurveCells(cells, plan)
    if spec.search is not None:
        search = Search(spec, SearchCells(cells, spec.search), plan, folder)
        return [search, Curve(curve), Front(search)]
    if spec.tune is not None:
        tune_cells = TuneCells(cells, plan, spec.tune)
        stopping = EarlyStopping(cells, spec.tune.rungs, folder)
        return [Tune(spec, tune_cells, curve, stopping, folder), Curve(curve, tune_cells)]
    return [Curve(curve)]
