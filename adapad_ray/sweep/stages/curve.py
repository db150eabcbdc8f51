"""The curve: every label at every budget with every seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adapad_ray.sweep.launch import Launch
from adapad_ray.sweep.observers import SweepObserver, SweepState
from adapad_ray.sweep.planning.cells import PlannedCell, Results, Wave
from adapad_ray.sweep.planning.curve_cells import CurveCells
from adapad_ray.sweep.planning.tune_cells import TuneCells, Winners
from adapad_ray.sweep.stages.base import Stage


class Curve(Stage):
    """Trains the curve, with the winners of the tune stage if there is one."""

    def __init__(self, cells: CurveCells, tune_cells: TuneCells | None = None) -> None:
        self._cells, self._tune_cells = cells, tune_cells
        self._announced: Winners | None = None

    def waves(self, results: Results) -> Iterator[Wave]:
        """Leaders before the labels that follow their compute, parents before the cells that cut them."""
        return self._cells.waves(self._winners(results), results)

    def compute(self, launch: Launch, missing: Sequence[PlannedCell]) -> None:
        """Computes the missing cells, after telling the observers which points have won."""
        winners = self._winners(launch.state.results)
        if winners and winners != self._announced and any(planned.stage == "curve" for planned in missing):
            self._announced = winners
            launch.observers.notify(SweepObserver.winners_found, winners, self._edges(launch.state))
        launch.compute(missing)

    def _edges(self, state: SweepState) -> list[str]:
        return [] if self._tune_cells is None else self._tune_cells.edges(state.results, state.stopped)

    def _winners(self, results: Results) -> Winners | None:
        return None if self._tune_cells is None else self._tune_cells.winners(results)
