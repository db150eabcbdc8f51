"""The searches of a sweep of `mode: search`: trials, Pareto front, retrained front and importances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from adapad_ray.report.curves import Curves
from adapad_ray.report.searches import Search, trials_table
from adapad_ray.report.section import Chart, Section
from adapad_ray.report.style.blocks import Block, Bullets, Paragraph, Table, mark, note
from adapad_ray.report.style.colours import GREY, GRID, PALETTE
from adapad_ray.report.style.formatting import count, metric_name, setting, share
from adapad_ray.report.sweep_results import SweepResults
from adapad_ray.wording import counted


@dataclass(frozen=True)
class Searches(Section):
    """All searches, with the trials as `trials.csv`."""

    heading = "The search"

    searches: Sequence[Search]
    curves: Curves

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self | None:
        return cls(sweep.searches, sweep.curves) if sweep.searches else None

    def figures(self) -> Iterator[Chart]:
        description = "Validation metric against parameters, per trial"
        yield Chart("search", description, search_figure(self.searches, self.curves))

    def files(self) -> Mapping[str, str]:
        return {"trials.csv": trials_table(self.searches).to_csv(index=False)}

    def words(self) -> Iterator[Block]:
        for search in self.searches:
            yield from _words(search, metric_name(self.curves.metric))
        yield note(
            "Each trial is one training run, scored on the validation split by two objectives: a higher metric and "
            "fewer deployed parameters. ● marks the trials that no other trial dominates. With many trials and one "
            "seed some of them are good by chance, so the configurations of the front are retrained with every seed "
            "(highlighted rows; label “front” in the curve), and only these are compared on the test split with the "
            "default points, which use the settings of the sweep's file. The comparison takes the configuration that "
            "is best on validation among those that are at most as large as the default point; p-values are "
            "corrected for all these comparisons together (Holm). Importances come from fANOVA over the trials; with "
            "a few dozen trials they are only a hint."
        )


def _words(search: Search, metric: str) -> Iterator[Block]:
    names = [metric_name(name) for name in search.settings]
    trials = search.trials.to_dict("records")
    done = [row for row in trials if row["state"] == "done"]
    failed = [row for row in trials if row["state"] == "failed"]
    trial = f"{search.label}\ntrial"

    def settings(row: Mapping[Any, Any]) -> list[str]:
        return [setting(row[name]) for name in search.settings]

    yield Paragraph(search.verdict)
    yield Bullets([comparison.sentence for comparison in search.comparisons])
    yield Table(
        [trial, f"validation\n{metric}", "deployed\nparameters", *names, "front", "retrained"],
        [
            [
                row["trial"],
                share(row["validation"]),
                count(row["parameters"]),
                *settings(row),
                mark(row["front"]),
                mark(row["rerun"]),
            ]
            for row in done
        ],
        highlighted=frozenset(i for i, row in enumerate(done) if row["rerun"]),
    )
    if failed:
        yield Paragraph(f"{len(failed)} of {counted(len(trials), 'trial')} failed and counted as such.")
        rows = [[row["trial"], *settings(row), row["reason"]] for row in failed]
        yield Table([trial, *names, "reason"], rows, styles={len(names) + 1: "wrap"})
    if len(trials) < search.requested:
        yield Paragraph(
            f"{len(trials)} of {counted(search.requested, 'trial')} started: launch the sweep again to finish the "
            "search."
        )
    if search.importances:
        yield Table(
            [
                f"{search.label}\nsetting",
                f"share of the variance\nof validation {metric}",
                "share of the variance\nof parameters",
            ],
            [[metric_name(row["name"]), share(row["metric"]), share(row["parameters"])] for row in search.importances],
        )


def search_figure(searches: Sequence[Search], curves: Curves) -> Figure:
    """Validation metric against deployed parameters, one panel per label.

    It shows the trials, their front, the retrained front and the default points.
    """
    figure = Figure(figsize=(9.2, 0.4 + 4.4 * len(searches)), layout="constrained")
    panels = figure.subplots(len(searches), 1, squeeze=False)[:, 0]
    for axes, search in zip(panels, searches, strict=True):
        _draw_trials(axes, search, figure)
        for label, colour, marker, name in (
            (search.label, PALETTE[0], "s", "default settings, mean over seeds"),
            (search.front_label, PALETTE[1], "D", "retrained front, mean over seeds"),
        ):
            keys = [key for key in curves.points if key.label == label and key.kind == "final"]
            x = [curves.parameters(key) for key in keys]
            y = [float(curves.validation[key].values.mean()) for key in keys]
            if x:
                axes.plot(x, y, marker, color=colour, markerfacecolor="white", markeredgewidth=1.8, label=name)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(f"Search of {search.label}", loc="left", fontweight="bold")
        axes.set_xlabel("deployed adapter parameters (without task head, log scale)")
        axes.set_ylabel(f"validation {metric_name(curves.metric)}")
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=9, loc="best")
    return figure


def _draw_trials(axes: Axes, search: Search, figure: Figure) -> None:
    done = search.trials[(search.trials["state"] == "done") & (search.trials["parameters"] > 0)]
    if len(done):
        x, y = done["parameters"], done["validation"]
        dots = axes.scatter(x, y, c=done["trial"], cmap="viridis", s=28, label="trials, one seed")
        figure.colorbar(dots, ax=axes, label="trial", shrink=0.7)
        front = done[done["front"]].sort_values("parameters")
        x, y = front["parameters"], front["validation"]
        axes.step(x, y, where="post", color=GREY, linewidth=1.2, label="front of the trials")
    failed = search.trials[search.trials["state"] == "failed"]
    if len(failed):
        budgets = pd.to_numeric(failed["budget"], errors="coerce")
        low = axes.get_ylim()[0]
        axes.plot(budgets, [low] * len(failed), "x", color=GREY, label="failed trials, at their budget")
