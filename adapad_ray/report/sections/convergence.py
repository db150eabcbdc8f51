"""The convergence of single components, for tasks whose true components are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Self

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from adapad_ray.report.convergence import (
    TARGET,
    LabelConvergence,
    convergence_sentences,
    convergence_table,
    label_convergences,
)
from adapad_ray.report.section import Chart, Section
from adapad_ray.report.style.blocks import Block, Bullets, Table, Text, note
from adapad_ray.report.style.colours import GREY, LIGHT, PALETTE
from adapad_ray.report.style.formatting import MISSING, count, one_decimal, share
from adapad_ray.report.sweep_results import SweepResults

_NOTE = Markup(
    "The error of component k is ‖s b<sub>k</sub> a<sub>k</sub>ᵀX − σ<sub>k</sub> u<sub>k</sub> v<sub>k</sub>ᵀ‖ / "
    "σ<sub>k</sub>, from its published values and term k of the SVD. Rounds and local steps (of all lanes together) "
    "are counted until it stays below 1e-3, as means over seeds. The lanes of one round can run in parallel; local "
    "steps measure the work. A sequential component starts after its predecessor's share of the steps, whether or "
    "not the predecessor needed them all. The dashed line is the shape of the bound in 2605.10741, 6 (l − "
    "s<sub>k</sub> + 2) m<sub>k</sub><sup>l − s<sub>k</sub> + 1</sup>, for parallel deflation in "
    "synchronous rounds. The paper gives no m<sub>k</sub> and s<sub>k</sub> for regression, so both are measured: "
    "m<sub>k</sub> is the slowest seed's contraction per round, fitted to errors between 1e-2 and 1e-9, and "
    "s<sub>k</sub> is the earliest round from which the bound then holds in every seed."
)


@dataclass(frozen=True)
class Convergence(Section):
    """Errors of all components over rounds, also as `convergence.csv`."""

    heading = "How single components converge"

    labels: Sequence[LabelConvergence]
    table: pd.DataFrame

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self | None:
        labels = label_convergences(sweep.curves.results, sweep.folder)
        return cls(labels, convergence_table(labels)) if labels else None

    def figures(self) -> Iterator[Chart]:
        yield Chart("convergence", "Error of every component against rounds", convergence_figure(self.labels))

    def files(self) -> Mapping[str, str]:
        return {"convergence.csv": self.table.to_csv(index=False)}

    def words(self) -> Iterator[Block]:
        yield Bullets(convergence_sentences(self.labels))
        columns: list[Text] = ["method", "component", "rounds\nto 1e-3", "local steps\nto 1e-3"]
        columns += ["final error\n(worst seed)", Markup("contraction\nm<sub>k</sub>"), Markup("warm-up\ns<sub>k</sub>")]
        yield Table(
            columns,
            [
                [
                    row["label"],
                    row["component"],
                    one_decimal(row["rounds_to_1e-3"]),
                    count(row["local_steps_to_1e-3"]),
                    f"{row['final_error']:.1e}",
                    share(row["contraction"]),
                    MISSING if row["warm_up"] is pd.NA else row["warm_up"],
                ]
                for row in self.table.to_dict("records")
            ],
        )
        yield note(_NOTE)


def convergence_figure(labels: Sequence[LabelConvergence]) -> Figure:
    """Error of every component over rounds, one panel per label.

    Thin lines are seeds, thick lines their geometric mean, dashed lines the shape of the bound. Each panel has its own
    axis of rounds, because training one lane at a time needs several times as many.
    """
    columns = min(4, len(labels))
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(1.2 + 2.9 * columns, 1.0 + 2.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[len(labels) :]:
        axes.set_visible(False)
    several_budgets = len({one.budget for one in labels}) > 1
    for axes, one in zip(grid.flat, labels, strict=False):
        _draw_label(axes, one)
        title = f"{one.label} · {one.budget:,}" if several_budgets and one.budget is not None else one.label
        reached = "not below" if np.isnan(one.rounds) else f"after {one.rounds:.0f} rounds below"
        axes.set_title(f"{title}\n{reached} {TARGET:.0e}", loc="left", fontsize=9.5)
    numbers = sorted({c.number for one in labels for c in one.components})
    for number, colour in zip(numbers, cycle(PALETTE), strict=False):
        grid[0, 0].plot([], [], color=colour, label=f"component {number}")
    if any(c.bound() is not None for one in labels for c in one.components):
        grid[0, 0].plot([], [], color=GREY, linestyle="--", linewidth=1, label="shape of the bound")
    figure.legend(loc="outside upper right", ncols=len(numbers) + 1, frameon=False, fontsize=9)
    figure.supxlabel("rounds (each panel has its own scale)", fontsize=10)
    figure.supylabel("relative error of the published component", fontsize=10)
    figure.suptitle("Convergence of components", x=0.01, ha="left", fontweight="bold", fontsize=12)
    return figure


def _draw_label(axes: Axes, one: LabelConvergence) -> None:
    thin: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.35}
    for component in one.components:
        colour = PALETTE[(component.number - 1) % len(PALETTE)]
        # Rounding may give 0, which a log axis cannot show.
        errors = component.errors.clip(lower=np.finfo(float).eps / 10)
        axes.plot(errors.index, errors, color=colour, **thin)
        axes.plot(errors.index, np.exp(np.log(errors).mean(axis=1)), color=colour, linewidth=1.8)
        bound = component.bound()
        if bound is not None:
            axes.plot(bound.index, bound, color=colour, linestyle="--", linewidth=1)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
    axes.tick_params(labelsize=9)
    axes.axhline(TARGET, color=LIGHT, linewidth=0.8, zorder=0)
    if not np.isnan(one.rounds):
        axes.axvline(one.rounds, color=LIGHT, linewidth=0.8, zorder=0)
