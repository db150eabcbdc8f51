"""Where the parameters went: the rank of every module."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adapad_ray.report.section import Chart, Section
from adapad_ray.report.style.drawing import GREY, INK, LIGHT
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
        yield Chart("ranks", "Rank per module type and layer", rank_figure(self.cells))


@dataclass(frozen=True)
class RankMap:
    """The ranks of one label at one budget."""

    label: str
    budget: int
    layers: list[str]
    """Layer numbers; `–` for modules outside of layers."""
    types: list[str]
    """Module types, in the order of the model."""
    ranks: np.ndarray
    """Mean over seeds, `[types, layers]`; NaN where the model has no such module."""


def rank_maps(cells: Sequence[CellResult]) -> list[RankMap]:
    """The rank maps of all labels and budgets; methods without budget or adapted modules have none."""
    groups: dict[tuple[str, int], list[CellResult]] = {}
    for cell in cells:
        if cell.identity.budget is not None and cell.identity.target_modules:
            groups.setdefault((cell.identity.label, cell.identity.budget), []).append(cell)
    return [_rank_map(label, budget, group) for (label, budget), group in sorted(groups.items())]


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


def layer_and_type(path: str) -> tuple[int | None, str]:
    """Splits a module path: `bert.encoder.layer.3.attention.self.query` → (3, `attention.self.query`)."""
    match = re.fullmatch(r"(?:.*?\.)??(\d+)\.(.+)", path)
    return (int(match[1]), match[2]) if match else (None, path)


def _rank_map(label: str, budget: int, cells: Sequence[CellResult]) -> RankMap:
    modules = cells[0].identity.target_modules
    split = [layer_and_type(module) for module in modules]
    layers = sorted({layer for layer, _ in split if layer is not None})
    names = [str(layer) for layer in layers] + ["–"] * any(layer is None for layer, _ in split)
    types = list(dict.fromkeys(module_type for _, module_type in split))
    ranks = np.full((len(types), len(names)), math.nan)
    for module, (layer, module_type) in zip(modules, split, strict=True):
        column = len(layers) if layer is None else layers.index(layer)
        ranks[types.index(module_type), column] = np.mean([cell.final.ranks.get(module, 0) for cell in cells])
    return RankMap(label, budget, names, types, ranks)


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
