"""Where the parameters went: the rank of every module."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adapad_ray.report.plots.ranks import RankMap, rank_maps, ranks_plot
from adapad_ray.report.section import Chart, Section
from adapad_ray.report.style.colours import GREY, INK, LIGHT
from adapad_ray.report.sweep_results import SweepResults
from adapad_ray.results import CellResult


@dataclass(frozen=True)
class Ranks(Section):
    """Mean rank per module type and layer."""

    heading = "Where the parameters went"

    cells: Sequence[CellResult]

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self:
        return cls(sweep.curves.results)

    def figures(self) -> Iterator[Chart]:
        maps = rank_maps(self.cells)
        plot = ranks_plot(maps) if maps else None
        yield Chart("ranks", "Rank per module type and layer", rank_figure(self.cells), plot)


def rank_figure(cells: Sequence[CellResult]) -> Figure:
    """Mean rank per module type × layer, one panel per label and budget."""
    maps = rank_maps(cells)
    if not maps:
        figure = Figure(figsize=(5, 1), layout="constrained")
        figure.text(0.5, 0.5, "no adapted modules", ha="center", va="center", color=GREY)
        return figure
    columns = min(len({panel.budget for panel in maps}), 6)
    positions = _positions([panel.label for panel in maps], columns)
    rows = max(row for row, _ in positions) + 1
    width = max(2.4, 0.36 * max(len(panel.layers) for panel in maps) + 0.6)
    height = 0.3 * max(len(panel.types) for panel in maps) + 0.75
    figure = Figure(figsize=(1.9 + columns * width, 0.7 + rows * height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for (row, column), panel in zip(positions, maps, strict=True):
        axes = grid[row, column]
        axes.set_axis_on()
        _draw(axes, panel, with_types=column == 0)
    figure.suptitle("Rank per module and layer (mean over seeds)", x=0.01, ha="left", fontweight="bold", fontsize=12)
    return figure


def _positions(labels: Sequence[str], columns: int) -> list[tuple[int, int]]:
    """Row and column of each panel; each label starts a new row."""
    positions: list[tuple[int, int]] = []
    row, column, previous = -1, 0, None
    for label in labels:
        if label != previous or column == columns:
            row, column = row + 1, 0
        positions.append((row, column))
        column, previous = column + 1, label
    return positions


def _draw(axes: Axes, panel: RankMap, *, with_types: bool) -> None:
    top = max(float(np.nanmax(panel.ranks)), 1.0)
    axes.imshow(panel.ranks, cmap="Blues", vmin=0, vmax=1.4 * top, aspect="auto")
    for (row, column), rank in np.ndenumerate(panel.ranks):
        if not math.isnan(rank):
            text = f"{rank:.0f}" if rank == round(rank) else f"{rank:.1f}"
            colour = LIGHT if rank == 0 else "white" if rank > 0.75 * top else INK
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour)
    axes.set_xticks(range(len(panel.layers)), panel.layers, fontsize=8)
    axes.set_yticks(range(len(panel.types)), panel.types if with_types else [""] * len(panel.types), fontsize=8)
    axes.set_xticks(np.arange(0.5, len(panel.layers) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(panel.types) - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{panel.label} · {panel.budget:,}", loc="left", fontsize=9.5)
