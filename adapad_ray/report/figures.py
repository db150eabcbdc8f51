"""The curve, the ranks and their growth, drawn.

Figures are made without pyplot, so nothing global changes and any thread may draw.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from adapad_ray.files import atomic_path
from adapad_ray.report.published import PublishedPoint, draw_published, show_published
from adapad_ray.report.recommendation import FROZEN, Recommendation
from adapad_ray.results import CellResult

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D00", "#303030", "#7A4DA0", "#56B4E9")
"""Okabe and Ito's colour-blind-safe colours, the pale ones darkened for lines on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
GREY, LIGHT = "#5f6368", "#c7cacd"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#202124",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "svg.hashsalt": "adapad-ray",
    "svg.fonttype": "path",
    "text.parse_math": False,
}


def curve_figure(
    table: pd.DataFrame,
    recommendation: Recommendation | None = None,
    reference: str = FROZEN,
    metric: str = "accuracy",
    title: str = "",
    published: Sequence[PublishedPoint] = (),
) -> Figure:
    """Test metric against deployed adapter parameters, one line per label, from the table of `curve_table`.

    Dots are means over seeds and bars their 95 % intervals, moved apart by 2 % a label; hollow dots are prefixes,
    which cost no training of their own; the dashed line is the method `reference`; ticks are requested budgets; the
    ring is the recommendation; hollow diamonds are `published`.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(9.2, 5.4), layout="constrained")
        axes = figure.add_subplot()
        adapted = table[table["budget"].notna() & (table["parameters"] > 0)]
        axes.set_xscale("log")
        labels = list(dict.fromkeys(adapted["label"]))
        offsets = _dodge(len(labels))
        ends: list[tuple[float, float, str, str]] = []
        for label, colour, marker, offset in zip(labels, cycle(PALETTE), cycle(MARKERS), offsets, strict=False):
            rows = adapted[adapted["label"] == label]
            _draw_prefixes(axes, rows, offset, colour, marker)
            finals = rows[rows["kind"] == "final"].sort_values("parameters")
            x, mean = finals["parameters"].to_numpy(), finals["test_mean"].to_numpy()
            low, high = finals["test_low"].to_numpy(), finals["test_high"].to_numpy()
            axes.plot(x * offset, mean, color=colour, marker=marker, markersize=6, linewidth=2, zorder=3)
            errors = [np.clip(mean - low, 0, None), np.clip(high - mean, 0, None)]
            bars: dict[str, Any] = {"ecolor": colour, "elinewidth": 1.3, "capsize": 2.5, "alpha": 0.55}
            axes.errorbar(x * offset, mean, errors, fmt="none", **bars)
            ends.append((float(x[-1] * offset), float(mean[-1]), label, colour))
        _draw_references(axes, table[table["budget"].isna()], reference)
        if recommendation is not None:
            _ring(axes, recommendation, dict(zip(labels, offsets, strict=True)).get(recommendation.label, 1.0))
        _draw_budgets(axes, sorted({int(budget) for budget in adapted["budget"]}))
        draw_published(axes, published, dict(zip(labels, cycle(PALETTE))))
        _name_lines(axes, ends)
        show_published(axes, published)
        axes.set_xlabel("deployed adapter parameters (task head apart, log scale)")
        axes.set_ylabel(f"test {metric.replace('_', ' ')}")
        axes.grid(axis="y", color="#eceff1", linewidth=0.8)
        axes.set_axisbelow(True)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=13)
        seeds = sorted(set(table["n_seeds"]))
        count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]}–{seeds[-1]}"
        hollow = " · hollow: prefixes of one trained model" if (adapted["kind"] == "prefix").any() else ""
        hollow += " · diamonds: published, not ours" if published else ""
        axes.set_title(
            f"mean over {count} seed{'s' * (seeds[-1] > 1)}, 95 % intervals over seeds × items{hollow}",
            loc="left",
            fontsize=9.5,
            color=GREY,
        )
    return figure


def rank_figure(results: Sequence[CellResult]) -> Figure:
    """Where the parameters went: mean rank per module type × layer, one panel per label and budget."""
    groups: dict[tuple[str, int], list[CellResult]] = {}
    for result in results:
        identity = result.identity
        if identity.stage == "curve" and identity.budget is not None and identity.target_modules:
            groups.setdefault((identity.label, identity.budget), []).append(result)
    panels = [(key, _rank_grid(cells)) for key, cells in sorted(groups.items())]
    with rc_context(STYLE):
        if not panels:
            figure = Figure(figsize=(5, 1), layout="constrained")
            figure.text(0.5, 0.5, "no adapted modules", ha="center", va="center", color=GREY)
            return figure
        columns = min(max(len({budget for _, budget in groups}), 1), 6, len(panels))
        places = _places([key for key, _ in panels], columns)
        rows = max(row for row, _ in places) + 1
        size = (
            max(len(layers) for _, (layers, _, _) in panels),
            max(len(types) for _, (_, types, _) in panels),
        )
        width, height = max(2.4, 0.36 * size[0] + 0.6), 0.3 * size[1] + 0.75
        figure = Figure(figsize=(1.9 + columns * width, 0.7 + rows * height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        first_in_row: set[int] = set()
        for (row, column), ((label, budget), heat) in zip(places, panels, strict=True):
            axes = grid[row, column]
            axes.set_axis_on()
            _draw_ranks(axes, *heat, names=row not in first_in_row)
            axes.set_title(f"{label} · {budget:,}", loc="left", fontsize=9.5)
            first_in_row.add(row)
        figure.suptitle(
            "Rank per module and layer (mean over seeds)", x=0.01, ha="left", fontweight="bold", fontsize=12
        )
    return figure


def growth_figure(results: Sequence[CellResult]) -> Figure | None:
    """Parameters charged to the budget over optimizer steps, one line per cell; None if no method grew."""
    grown = [result for result in results if result.growth and result.identity.stage == "curve"]
    if not grown:
        return None
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 3.6), layout="constrained")
        axes = figure.add_subplot()
        labels = list(dict.fromkeys(result.identity.label for result in grown))
        for result in grown:
            colour = PALETTE[labels.index(result.identity.label) % len(PALETTE)]
            steps = [*(event.step for event in result.growth), result.cost.steps]
            spent = [event.spent for event in result.growth]
            axes.step(steps, [*spent, spent[-1]], where="post", color=colour, linewidth=1, alpha=0.7)
        for label, colour in zip(labels, cycle(PALETTE), strict=False):
            axes.plot([], [], color=colour, label=label)
        axes.legend(frameon=False, loc="upper left")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("parameters in use")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        axes.set_title("Growth", loc="left", fontweight="bold")
    return figure


def save_figure(figure: Figure, stem: Path | str) -> tuple[Path, Path]:
    """Writes `stem.png` (150 dpi) and `stem.svg`; the same figure always gives the same bytes of SVG."""
    png, svg = (Path(f"{stem}{suffix}") for suffix in (".png", ".svg"))
    with rc_context(STYLE):
        with atomic_path(png) as temporary:
            figure.savefig(temporary, dpi=150, facecolor="white")
        with atomic_path(svg) as temporary:
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(temporary, facecolor="white", metadata=nothing)
    return png, svg


def module_place(path: str) -> tuple[int | None, str]:
    """Layer and type of a module: `bert.encoder.layer.3.attention.self.query` → (3, `attention.self.query`)."""
    match = re.fullmatch(r"(?:.*?\.)??(\d+)\.(.+)", path)
    return (int(match[1]), match[2]) if match else (None, path)


def _rank_grid(cells: Sequence[CellResult]) -> tuple[list[str], list[str], np.ndarray]:
    """Names of the layers, module types in the model's order, and mean ranks `[types, layers]`."""
    modules = cells[0].identity.target_modules
    places = [module_place(module) for module in modules]
    layers = sorted({layer for layer, _ in places if layer is not None})
    names = [str(layer) for layer in layers] + ["–"] * any(layer is None for layer, _ in places)
    types = list(dict.fromkeys(kind for _, kind in places))
    ranks = np.full((len(types), len(names)), math.nan)
    for module, (layer, kind) in zip(modules, places, strict=True):
        column = len(layers) if layer is None else layers.index(layer)
        ranks[types.index(kind), column] = np.mean([cell.final.ranks.get(module, 0) for cell in cells])
    return names, types, ranks


def _places(keys: Sequence[tuple[str, int]], columns: int) -> list[tuple[int, int]]:
    """Row and column per panel: each label starts a row of its own."""
    places: list[tuple[int, int]] = []
    row, column, previous = -1, 0, None
    for label, _ in keys:
        if label != previous or column == columns:
            row, column = row + 1, 0
        places.append((row, column))
        column, previous = column + 1, label
    return places


def _draw_ranks(axes: Axes, layers: list[str], types: list[str], ranks: np.ndarray, names: bool) -> None:
    top = max(float(np.nanmax(ranks)), 1.0)
    axes.imshow(ranks, cmap="Blues", vmin=0, vmax=1.4 * top, aspect="auto")
    for (row, column), rank in np.ndenumerate(ranks):
        if not math.isnan(rank):
            text = f"{rank:.0f}" if rank == round(rank) else f"{rank:.1f}"
            colour = LIGHT if rank == 0 else "white" if rank > 0.75 * top else "#202124"
            axes.text(column, row, text, ha="center", va="center", fontsize=7.5, color=colour)
    axes.set_xticks(range(len(layers)), layers, fontsize=8)
    axes.set_yticks(range(len(types)), types if names else [""] * len(types), fontsize=8)
    axes.set_xticks(np.arange(0.5, len(layers) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(types) - 1), minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _dodge(count: int) -> list[float]:
    """Small factors that keep the error bars of labels at one budget apart."""
    return [math.exp(0.02 * (index - (count - 1) / 2)) for index in range(count)]


def _draw_prefixes(axes: Axes, rows: pd.DataFrame, offset: float, colour: str, marker: str) -> None:
    """Prefixes as hollow markers on a thin line that ends in the model they were cut from."""
    style: dict[str, Any] = {"color": colour, "linewidth": 0.8, "linestyle": (0, (4, 2)), "alpha": 0.75}
    for _, trained in rows.groupby("budget"):
        if (trained["kind"] == "prefix").any():
            trained = trained.sort_values("parameters")
            hollow = [i for i, kind in enumerate(trained["kind"]) if kind == "prefix"]
            x, y = trained["parameters"] * offset, trained["test_mean"]
            axes.plot(x, y, marker=marker, markersize=4, markerfacecolor="white", markevery=hollow, **style)


def _draw_references(axes: Axes, rows: pd.DataFrame, reference: str) -> None:
    """Methods without a budget as dashed lines; their intervals as bars at the left edge."""
    for _, row in rows[rows["kind"] == "final"].iterrows():
        axes.axhline(row["test_mean"], color=GREY, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
        axes.axhspan(row["test_low"], row["test_high"], xmax=0.025, color=GREY, alpha=0.3, linewidth=0)
        if row["method"] == reference:
            text = "frozen backbone, head only" if row["head_parameters"] else "frozen backbone"
        else:
            text = f"{row['label']} ({_short(row['parameters'])} parameters)"
        axes.annotate(
            text,
            (0.99, row["test_mean"]),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            color=GREY,
            fontsize=9.5,
        )


def _ring(axes: Axes, chosen: Recommendation, offset: float) -> None:
    if chosen.parameters > 0:
        x, y = chosen.parameters * offset, chosen.test_mean
        axes.plot(x, y, "o", markersize=17, markerfacecolor="none", markeredgecolor="#202124", markeredgewidth=1.6)
        low, high = axes.get_xlim()
        left = math.log(x / low) > 0.5 * math.log(high / low)
        axes.annotate(
            f"recommended: {chosen.parameters:,.0f}",
            (x, y),
            xytext=(x, 0.035),
            textcoords=("data", "axes fraction"),
            ha="right" if left else "left",
            fontsize=10,
            fontweight="bold",
            color="#202124",
            arrowprops={
                "arrowstyle": "-",
                "color": "#202124",
                "linewidth": 0.8,
                "linestyle": ":",
                "shrinkB": 9,
                "relpos": (1 if left else 0, 1),
            },
            bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.9},
            zorder=5,
        )


def _draw_budgets(axes: Axes, budgets: list[int]) -> None:
    """Requested budgets as the axis' ticks, with a light line up to the curve."""
    for budget in budgets:
        axes.axvline(budget, color="#eceff1", linewidth=1, zorder=0)
    apart = [b for i, b in enumerate(budgets) if i == 0 or b / budgets[i - 1] > 1.12]
    axes.set_xticks(apart, [_short(budget) for budget in apart])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)


def _name_lines(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Labels right of the lines' ends, moved apart where they would overlap."""
    if not ends:
        return
    low, high = axes.get_ylim()
    gap = 0.055 * (high - low)
    right = max(x for x, *_ in ends)
    placed: list[float] = []
    ordered = sorted(ends, key=lambda end: end[1])
    for _, y, *_ in ordered:
        placed.append(max(y, placed[-1] + gap) if placed else y)
    shift = (sum(placed) - sum(y for _, y, *_ in ordered)) / len(placed)
    for (x, y, label, colour), height in zip(ordered, placed, strict=True):
        axes.annotate(
            label,
            (x, y),
            xytext=(right * 1.09, height - shift),
            textcoords="data",
            color=colour,
            fontweight="bold",
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.7,
                "alpha": 0.5,
                "shrinkA": 1,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )
    start = min(axes.get_xlim()[0], right / 2)
    longest = max(len(label) for *_, label, _ in ends)
    axes.set_xlim(start, right * (right / start) ** (0.04 + 0.0135 * longest))
    axes.set_ylim(low, high)


def _short(count: float) -> str:
    """41472 → 41.5k, 22700000 → 22.7M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"
