"""Growth of the parameter count during training, for methods that discover their ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Self

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from adapad_ray.report.section import Chart, Section
from adapad_ray.report.style.drawing import PALETTE
from adapad_ray.report.style.formatting import short_count
from adapad_ray.report.sweep_results import SweepResults
from adapad_ray.results import CellResult


@dataclass(frozen=True)
class Growth(Section):
    """Parameters in use over optimizer steps."""

    cells: Sequence[CellResult]
    """The cells of the curve whose ranks grew."""

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self | None:
        cells = [result for result in sweep.curves.results if result.growth]
        return cls(cells) if cells else None

    def figures(self) -> Iterator[Chart]:
        yield Chart("growth", "Parameters in use over optimizer steps", growth_figure(self.cells))


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
