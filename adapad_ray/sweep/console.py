"""What a person sees while a sweep runs, and at its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import rich.console
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from adapad_ray.results import CellIdentity, CellResult
from adapad_ray.sweep.planner import Winners
from adapad_ray.sweep.spec import SweepSpec


def terminal(*, stderr: bool = False) -> rich.console.Console:
    """The console to print on: as wide as the terminal, and wide enough for the tables where there is none."""
    console = rich.console.Console(stderr=stderr)
    return console if console.is_terminal else rich.console.Console(stderr=stderr, width=120)


class Console:
    """Live progress on a terminal; one line per finished cell where there is none."""

    def __init__(self, console: rich.console.Console | None = None) -> None:
        self.rich = console or terminal()
        self._live: Progress | None = None
        self._best: tuple[float, str] | None = None
        self._running: dict[str, str] = {}

    def say(self, text: str) -> None:
        """One line."""
        self.rich.print(text, markup=False, highlight=False)

    @contextmanager
    def live(self, cells: int, groups: int) -> Iterator[None]:
        """Shows progress while the block runs: cells done, time left, what runs now, best so far."""
        self.say(f"{cells} cells, {groups} running side by side.")
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[status]}"),
        )
        with Progress(*columns, console=self.rich, disable=not self.rich.is_terminal, speed_estimate_period=600) as bar:
            self._live = bar
            self._task = bar.add_task("starting", total=cells, status="")
            try:
                yield
            finally:
                self._live = None

    def more(self, cells: int) -> None:
        """This many cells, known only now, are to be computed as well."""
        if self._live is not None:
            total = self._live.tasks[self._task].total or 0
            self._live.update(self._task, total=total + cells)

    def reused(self, cells: int) -> None:
        """An earlier launch had finished these."""
        if cells:
            self.say(f"{cells} cells are finished already.")
        if self._live is not None:
            self._live.advance(self._task, cells)

    def progress(self, identity: CellIdentity, data: dict[str, Any]) -> None:
        """A running cell reported."""
        self._running[_name(identity)] = f"{100 * data['step'] // data['steps']}%"
        self._refresh(identity.stage)

    def finished(self, result: CellResult) -> None:
        """A cell has its result."""
        value = result.final.validation[result.metric]
        if result.identity.stage != "parent" and (self._best is None or value > self._best[0]):
            self._best = value, f"{result.identity.label} at {result.final.parameters:,}"
        self._running.pop(_name(result.identity), None)
        if self._live is not None:
            self._live.advance(self._task)
            self._refresh(result.identity.stage)
        if not self.rich.is_terminal:
            seconds = result.cost.train_seconds + result.cost.evaluation_seconds
            self.say(f"{_name(result.identity)}: validation {result.metric} {value:.3f}, {seconds:.0f} s")

    def failed(self, identity: CellIdentity, reason: str) -> None:
        """A cell will have no result."""
        self._running.pop(_name(identity), None)
        self.say(f"{_name(identity)} failed: {reason}")
        if self._live is not None:
            self._live.advance(self._task)

    def _refresh(self, stage: str) -> None:
        if self._live is None:
            return
        running = ", ".join(f"{name} {share}" for name, share in list(self._running.items())[-2:])
        best = f"best validation {self._best[0]:.3f} ({self._best[1]})" if self._best else ""
        self._live.update(self._task, description=stage, status=f"{running}  {best}")

    def tuned(self, winners: Winners, spec: SweepSpec) -> None:
        """The tune stage has chosen."""
        for (label, budget), point in winners.items():
            chosen = ", ".join(
                f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in point.items()
            )
            at = "" if budget is None else f" at {budget:,}"
            self.say(f"tuned {label}{at}: {chosen}")

    def curve(self, table: pd.DataFrame, metric: str) -> None:
        """The curve as a table: final models, and how many prefixes stand in curve.csv."""
        view = Table(title=f"{metric} on the test split, mean and 95 % interval", title_justify="left", box=SIMPLE_HEAD)
        for heading in ("method", "budget", "parameters", "mean", "interval", "rank mean / max", "seeds", "train s"):
            view.add_column(heading, justify="left" if heading == "method" else "right")
        finals = table[table["kind"] == "final"]
        for row in finals.to_dict("records"):
            budget = "–" if pd.isna(row["budget"]) else f"{int(row['budget']):,}"
            view.add_row(
                str(row["label"]),
                budget,
                f"{row['parameters']:,.0f}",
                f"{row['test_mean']:.3f}",
                f"{row['test_low']:.3f} – {row['test_high']:.3f}",
                f"{row['mean_rank']:.1f} / {row['max_rank']:.0f}",
                str(row["n_seeds"]),
                f"{row['train_seconds']:.0f}",
            )
        self.rich.print(view)
        prefixes = len(table) - len(finals)
        if prefixes:
            self.say(f"{prefixes} prefix points more are in curve.csv and in the figure.")

    def failures(self, failed: list[Any]) -> None:
        """The table of cells without a result."""
        if not failed:
            return
        view = Table(title="Failed cells", title_justify="left", box=SIMPLE_HEAD)
        for heading in ("method", "budget", "seed", "reason"):
            view.add_column(heading)
        for cell in failed:
            budget = "–" if cell.budget is None else f"{cell.budget:,}"
            view.add_row(cell.label, budget, str(cell.seed), escape(cell.reason))
        self.rich.print(view)

    def links(self, links: Mapping[str, str | Path]) -> None:
        """Where to look."""
        for name, place in links.items():
            self.rich.print(f"{name:<15}{place}", markup=False, highlight=False, soft_wrap=True)


def _name(identity: CellIdentity) -> str:
    budget = "" if identity.budget is None else f" {identity.budget:,}"
    return f"{identity.stage} {identity.label}{budget} seed {identity.seed}"
