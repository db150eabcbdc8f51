"""How training went: growth of the parameter count, and losses of every lane."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Self

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from adapad_ray.report.plots.training import growth_plot, lane_losses, losses_plot
from adapad_ray.report.section import Chart, Section
from adapad_ray.report.style.colours import PALETTE
from adapad_ray.report.style.formatting import short_count
from adapad_ray.report.sweep_results import SweepResults
from adapad_ray.results import CellResult


@dataclass(frozen=True)
class Training(Section):
    """Parameters in use and losses over optimizer steps."""

    heading = "How training went"

    grown: Sequence[CellResult]
    """The cells of the curve whose ranks grew."""
    losses: pd.DataFrame
    """Of `lane_losses`."""

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self | None:
        cells = sweep.curves.results
        grown, losses = [cell for cell in cells if cell.growth], lane_losses(cells, sweep.folder)
        return cls(grown, losses) if grown or len(losses) else None

    def figures(self) -> Iterator[Chart]:
        if self.grown:
            description = "Parameters in use over optimizer steps"
            yield Chart("growth", description, growth_figure(self.grown), growth_plot(self.grown))
        if len(self.losses):
            yield Chart("losses", "Training loss of every lane over optimizer steps", None, losses_plot(self.losses))


def growth_figure(cells: Sequence[CellResult]) -> Figure:
    """Parameters charged to the budget over optimizer steps, one line per cell."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    labels = list(dict.fromkeys(cell.identity.label for cell in cells))
    for cell in cells:
        colour = PALETTE[labels.index(cell.identity.label) % len(PALETTE)]
        steps = [*(event.step for event in cell.growth), cell.cost.steps]
        spent = [event.spent for event in cell.growth]
        axes.step(steps, [*spent, spent[-1]], where="post", color=colour, linewidth=1, alpha=0.7)
    for label, colour in zip(labels, cycle(PALETTE), strict=False):
        axes.plot([], [], color=colour, label=label)
    axes.legend(frameon=False, loc="upper left")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("parameters in use")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axes.set_title("Growth", loc="left", fontweight="bold")
    return figure
