"""Early stopping of trials of the tune stage: where they pause, and what their cells' folders say about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from adapad_ray.report.inputs import StoppedTrial
from adapad_ray.search.halving import Halving, RankedTrial, Rung
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.cells import Cell, PlannedCell, Results
from adapad_ray.training.cell.rungs import RungScore, load_rungs


class EarlyStopping:
    """The rungs of a sweep's trials.

    Which trials are stopped follows from the scores in the cells' folders alone, so every launch finds the same.

    Args:
        rungs: none without early stopping.
        folder: of the sweep.
    """

    def __init__(self, cells: CellFactory, rungs: Sequence[Rung], folder: Path) -> None:
        self._cells, self._rungs, self._folder = cells, rungs, folder

    def pauses(self, cell: Cell) -> tuple[int, ...]:
        """The step of every rung: the end of the first round after its share of the steps.

        None if the last rung is the end of the training, or another one: the cell trains for too few steps, or not.
        """
        method = self._cells.method(cell.identity)
        steps, period = method.training_steps, method.local_steps
        pauses = tuple(math.ceil(rung.share * steps / period) * period for rung in self._rungs)
        apart = all(before < after for before, after in zip((0, *pauses), (*pauses, steps), strict=True))
        return pauses if apart else ()

    def reached(self, cell: Cell) -> list[RungScore]:
        """The scores of a cell at its rungs so far, on the rows on which trials are compared now."""
        rows = len(self._cells.inputs.data.compared_on)
        entries = load_rungs(cell.folder(self._folder)) if self._rungs else []
        known = {entry.step: entry for entry in entries if entry.rows == rows}
        reached: list[RungScore] = []
        for step in self.pauses(cell) if known else ():
            if step not in known:
                break
            reached.append(known[step])
        return reached

    def halving(
        self,
        study: Sequence[PlannedCell],
        results: Results,
        unavailable: Collection[str] = (),
        on_stopped: Callable[[str], None] = lambda id: None,
    ) -> Halving:
        """The trials of one study, with what is known of them.

        Args:
            unavailable: ids of cells that have failed, or that cannot be computed.
            on_stopped: see `Halving`.
        """
        trials = [
            RankedTrial(p.id, [rung.score for rung in self.reached(p.cell)], p.id in results, p.id in unavailable)
            for p in study
        ]
        return Halving(trials, self._rungs, on_stopped)

    def stopped_trial(self, planned: PlannedCell) -> StoppedTrial:
        """What the report says about a trial that was stopped."""
        identity, last = planned.cell.identity, self.reached(planned.cell)[-1]
        steps = self._cells.method(identity).training_steps
        return StoppedTrial(
            identity.label,
            identity.budget,
            identity.seed,
            dict(planned.point),
            last.step,
            steps,
            last.score,
            last.loss,
            last.seconds,
        )
