"""The accuracy-budget curve, drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from adapad_ray.report.curves import Curves
from adapad_ray.report.plots.curve import curve_plot, curve_points
from adapad_ray.report.plots.plot import Plot
from adapad_ray.report.published import PublishedPoint, comparable, of_task
from adapad_ray.report.recommendation import FROZEN, Recommendation
from adapad_ray.report.section import Chart, Section
from adapad_ray.report.style.colours import GREY, GRID, INK, PALETTE
from adapad_ray.report.style.drawing import MARKERS
from adapad_ray.report.style.formatting import metric_name, short_count
from adapad_ray.report.sweep_results import SweepResults


@dataclass(frozen=True)
class Curve(Section):
    """Test metric against deployed parameters, also as `curve.csv`."""

    table: pd.DataFrame
    """The rows of `Curves.table`."""
    metric: str
    title: str = ""
    recommendation: Recommendation | None = None
    published: Sequence[PublishedPoint] = ()
    """Points with a parameter count and the curve's metric."""
    further: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Other metrics than the deciding one, on the test split: mean over seeds of every row."""

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self:
        published = of_task(sweep.inputs.published, sweep.results[0].identity.task)
        return cls(
            sweep.table,
            sweep.metric,
            sweep.inputs.title,
            sweep.recommendation,
            comparable(published, sweep.metric),
            _further_metrics(sweep.curves),
        )

    def figures(self) -> Iterator[Chart]:
        description = "Test metric against deployed parameters, per method"
        yield Chart("curve", description, curve_figure(self), self._plot())

    def _plot(self) -> Plot:
        chosen = None if self.recommendation is None else self.recommendation.point
        table = self.table.assign(**{f"{name}_mean": values for name, values in self.further.items()})
        return curve_plot(curve_points(table, chosen), self.metric, list(self.further), self.published)

    def files(self) -> Mapping[str, str]:
        return {"curve.csv": self.table.to_csv(index=False)}


def _further_metrics(curves: Curves) -> dict[str, list[float]]:
    """Means over seeds of the test metrics that every point records beside the deciding one: `test f1` → values."""
    points = [[point.test for _, point in group] for group in curves.points.values()]
    names = set.intersection(*(set(test) for group in points for test in group)) - {curves.metric}
    return {f"test {n}": [float(np.mean([test[n] for test in group])) for group in points] for n in sorted(names)}


class _LineEnd(NamedTuple):
    """The right end of a label's line, where its name goes."""

    x: float
    y: float
    label: str
    colour: str


def curve_figure(curve: Curve) -> Figure:
    """Test metric against deployed adapter parameters, one line per label.

    Dots are means over seeds, bars their 95 % intervals; labels are shifted by 2 % against each other so that bars do
    not overlap. Hollow dots are prefixes, dashed lines are methods without a budget, ticks are the requested budgets,
    the ring is the recommendation, and hollow diamonds are published values.
    """
    figure = Figure(figsize=(9.2, 5.4), layout="constrained")
    axes = figure.add_subplot()
    adapted = curve.table[curve.table["budget"].notna() & (curve.table["parameters"] > 0)]
    axes.set_xscale("log")
    labels = list(dict.fromkeys(adapted["label"]))
    shifts = dict(zip(labels, _shifts(len(labels)), strict=True))
    ends = []
    for label, colour, marker in zip(labels, cycle(PALETTE), cycle(MARKERS), strict=False):
        rows, shift = adapted[adapted["label"] == label], shifts[label]
        _draw_prefixes(axes, rows, shift, colour, marker)
        finals = rows[rows["kind"] == "final"].sort_values("parameters")
        x, mean = finals["parameters"].to_numpy(), finals["test_mean"].to_numpy()
        low, high = finals["test_low"].to_numpy(), finals["test_high"].to_numpy()
        axes.plot(x * shift, mean, color=colour, marker=marker, markersize=6, linewidth=2, zorder=3)
        errors = [np.clip(mean - low, 0, None), np.clip(high - mean, 0, None)]
        bars: dict[str, Any] = {"ecolor": colour, "elinewidth": 1.3, "capsize": 2.5, "alpha": 0.55}
        axes.errorbar(x * shift, mean, errors, fmt="none", **bars)
        ends.append(_LineEnd(float(x[-1] * shift), float(mean[-1]), label, colour))
    _widen(axes)
    _draw_references(axes, curve.table[curve.table["budget"].isna()])
    if curve.recommendation is not None:
        _draw_ring(axes, curve.recommendation, shifts.get(curve.recommendation.label, 1.0))
    _draw_budgets(axes, sorted({int(budget) for budget in adapted["budget"]}))
    _draw_published(axes, curve.published, dict(zip(labels, cycle(PALETTE))))
    _name_lines(axes, ends)
    _extend_to_published(axes, curve.published)
    axes.set_xlabel("deployed adapter parameters (without task head, log scale)")
    axes.set_ylabel(f"test {metric_name(curve.metric)}")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    figure.suptitle(curve.title, x=0.01, ha="left", fontweight="bold", fontsize=13)
    axes.set_title(_subtitle(curve, adapted), loc="left", fontsize=9.5, color=GREY)
    return figure


def _widen(axes: Axes) -> None:
    """Gives the parameter axis a width where all points have the same size: matplotlib's own is that of rounding."""
    low, high = axes.get_xlim()
    if high < 2 * low:
        axes.set_xlim(low / 2, high * 2)


def _subtitle(curve: Curve, adapted: pd.DataFrame) -> str:
    seeds = sorted(set(curve.table["n_seeds"]))
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]}–{seeds[-1]}"
    text = f"mean over {count} seed{'s' * (seeds[-1] > 1)}, 95 % intervals over seeds × items"
    if (adapted["kind"] == "prefix").any():
        text += " · hollow: prefixes of one trained model"
    return text + " · diamonds: published values" * bool(curve.published)


def _shifts(count: int) -> list[float]:
    """Factors that keep the error bars of labels at one budget apart."""
    return [math.exp(0.02 * (index - (count - 1) / 2)) for index in range(count)]


def _draw_prefixes(axes: Axes, rows: pd.DataFrame, shift: float, colour: str, marker: str) -> None:
    """Draws prefixes as hollow markers on a thin line that ends at the model they were cut from."""
    style: dict[str, Any] = {"color": colour, "linewidth": 0.8, "linestyle": (0, (4, 2)), "alpha": 0.75}
    for _, trained in rows.groupby("budget"):
        if (trained["kind"] == "prefix").any():
            trained = trained.sort_values("parameters")
            hollow = [i for i, kind in enumerate(trained["kind"]) if kind == "prefix"]
            x, y = trained["parameters"] * shift, trained["test_mean"]
            axes.plot(x, y, marker=marker, markersize=4, markerfacecolor="white", markevery=hollow, **style)


def _draw_references(axes: Axes, rows: pd.DataFrame) -> None:
    """Draws methods without a budget as dashed lines, with their intervals as bars at the left edge."""
    for _, row in rows[rows["kind"] == "final"].iterrows():
        axes.axhline(row["test_mean"], color=GREY, linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
        axes.axhspan(row["test_low"], row["test_high"], xmax=0.025, color=GREY, alpha=0.3, linewidth=0)
        if row["method"] == FROZEN:
            text = "frozen backbone, head only" if row["head_parameters"] else "frozen backbone"
        else:
            text = f"{row['label']} ({short_count(row['parameters'])} parameters)"
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


def _draw_ring(axes: Axes, chosen: Recommendation, shift: float) -> None:
    """Rings the recommended point; a recommended frozen backbone is a line already."""
    if chosen.parameters == 0:
        return
    x, y = chosen.parameters * shift, chosen.test_mean
    axes.plot(x, y, "o", markersize=17, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.6)
    low, high = axes.get_xlim()
    to_the_left = math.log(x / low) > 0.5 * math.log(high / low)
    line: dict[str, Any] = {"arrowstyle": "-", "color": INK, "linewidth": 0.8, "linestyle": ":", "shrinkB": 9}
    axes.annotate(
        f"recommended: {chosen.parameters:,.0f}",
        (x, y),
        xytext=(x, 0.035),
        textcoords=("data", "axes fraction"),
        ha="right" if to_the_left else "left",
        fontsize=10,
        fontweight="bold",
        color=INK,
        arrowprops={**line, "relpos": (1 if to_the_left else 0, 1)},
        bbox={"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "none", "alpha": 0.9},
        zorder=5,
    )


def _draw_budgets(axes: Axes, budgets: list[int]) -> None:
    """Puts a tick and a light vertical line at each requested budget; ticks that are too close are left out."""
    for budget in budgets:
        axes.axvline(budget, color=GRID, linewidth=1, zorder=0)
    ticks = [b for i, b in enumerate(budgets) if i == 0 or b / budgets[i - 1] > 1.12]
    axes.set_xticks(ticks, [short_count(budget) for budget in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)


def _draw_published(axes: Axes, points: Sequence[PublishedPoint], colours: Mapping[str, str]) -> None:
    """Draws hollow diamonds with the paper's label; `colours` are those of the sweep's labels."""
    for point in points:
        if point.parameters is None:
            continue
        colour = colours.get(point.label, INK)
        style: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.4}
        axes.plot(point.parameters, point.value, "D", markersize=7, zorder=4, **style)
        axes.annotate(
            point.label,
            (point.parameters, point.value),
            xytext=(7, -3),
            textcoords="offset points",
            fontsize=8,
            color=GREY,
            zorder=4,
        )


def _extend_to_published(axes: Axes, points: Sequence[PublishedPoint]) -> None:
    """Widens the parameter axis to show every published point."""
    counts = [point.parameters for point in points if point.parameters is not None]
    if counts:
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, 0.8 * min(counts)), max(high, 1.6 * max(counts)))


def _name_lines(axes: Axes, ends: Sequence[_LineEnd]) -> None:
    """Writes the labels right of the ends of their lines, moved apart where they would overlap."""
    if not ends:
        return
    low, high = axes.get_ylim()
    gap = 0.055 * (high - low)
    right = max(end.x for end in ends)
    ordered = sorted(ends, key=lambda end: end.y)
    heights: list[float] = []
    for end in ordered:
        heights.append(max(end.y, heights[-1] + gap) if heights else end.y)
    shift = (sum(heights) - sum(end.y for end in ordered)) / len(heights)
    line: dict[str, Any] = {"arrowstyle": "-", "linewidth": 0.7, "alpha": 0.5, "shrinkA": 1, "shrinkB": 4}
    for end, height in zip(ordered, heights, strict=True):
        axes.annotate(
            end.label,
            (end.x, end.y),
            xytext=(right * 1.09, height - shift),
            textcoords="data",
            color=end.colour,
            fontweight="bold",
            va="center",
            annotation_clip=False,
            arrowprops={**line, "color": end.colour, "relpos": (0, 0.5)},
        )
    start = min(axes.get_xlim()[0], right / 2)
    longest = max(len(end.label) for end in ends)
    axes.set_xlim(start, right * (right / start) ** (0.04 + 0.0135 * longest))
    axes.set_ylim(low, high)
