"""What the terminal shows while a sweep runs, and at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import rich.console
from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.markup import escape
from rich.style import Style
from rich.table import Table
from rich.text import Text

from adapad_ray.cli.output.live import LiveLines
from adapad_ray.cli.output.tables import fitted
from adapad_ray.cli.output.terminal import terminal
from adapad_ray.report.curves import PointKey
from adapad_ray.report.inputs import FailedCell, Gap, StoppedTrial
from adapad_ray.report.recommendation import export_command, recommended_command
from adapad_ray.results import CellResult
from adapad_ray.sweep.observers import SweepObserver, SweepOutcome, SweepState
from adapad_ray.tasks import SplitSize, sizes_in_words
from adapad_ray.wording import counted, duration

if TYPE_CHECKING:
    from adapad_ray.distributed import GroupRetired, JobProgress
    from adapad_ray.report.page import Report
    from adapad_ray.sweep.planning.cells import Cell, Wave
    from adapad_ray.sweep.planning.tune_cells import Winners


class Console(SweepObserver):
    """Shows a launch: one line per finished cell and, on a terminal, the live lines below them."""

    def __init__(self, console: rich.console.Console | None = None) -> None:
        self._rich = console or terminal()
        self._live: Live | None = None
        self._lines: LiveLines | None = None
        self._best: float | None = None
        self._points: dict[str, Mapping[str, Any]] = {}
        """Cell id → its settings that differ from the file's, before the curve."""

    def nothing_to_compute(self, cells: int) -> None:
        """Prints one line."""
        self._print(f"{'The only cell is' if cells == 1 else f'All {cells} cells are'} finished: nothing to compute.")

    def data_read(self, sizes: Mapping[str, SplitSize]) -> None:
        """Prints the rows of every split and class in one line."""
        self._print(f"Data: {sizes_in_words(sizes)}.")

    def computing_started(self, state: SweepState, expected: int, groups: int, dashboard: str | None = None) -> None:
        """Shows the live lines, if the output is a terminal."""
        self._print(f"{counted(expected, 'cell')}, {groups} running side by side.")
        if dashboard is not None:
            self.links({"Ray's dashboard": dashboard})
        self._lines = LiveLines(state, expected)
        if self._rich.is_terminal and not self._rich.is_dumb_terminal:
            self._live = Live(self._lines, console=self._rich, transient=True)
            self._live.start()

    def computing_ended(self) -> None:
        """Removes the live lines."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def wave_planned(self, wave: Wave, additional: int) -> None:
        """Adds cells to the expected number."""
        self._points.update({planned.id: planned.point for planned in wave if planned.stage != "curve"})
        self._lengthen(additional)

    def trial_failed(self, label: str, number: int, reason: str) -> None:
        """Prints the reason; the expected number falls by one."""
        self._print(f"search {label} trial {number} failed: {reason}")
        self._lengthen(-1)

    def cells_reused(self, results: Sequence[CellResult]) -> None:
        """Prints their number."""
        self._print(f"{counted(len(results), 'cell')} finished already.")
        self._live_lines.ended += len(results)

    def winners_found(self, winners: Winners, edges: Sequence[str]) -> None:
        """Prints the chosen hyperparameters of each label, and which lie at an edge."""
        for (label, budget), point in winners.items():
            at = "" if budget is None else f" at {budget:,}"
            self._print(f"tuned {label}{at}: {_settings(point)}")
        for edge in edges:
            self._print(f"tuned {edge}: raise tune.trials, or widen its space where it ends there")

    def cell_progress(self, cell: Cell, progress: JobProgress) -> None:
        """Shows the share of its steps."""
        data, stage = progress.data, cell.identity.stage
        self._live_lines.progress(cell.id, self._name(cell), stage, data["step"], data["steps"], data.get("resumed", 0))

    def cell_finished(self, cell: Cell, result: CellResult, attempts: int) -> None:
        """Prints its validation metric and its time."""
        identity, value = result.identity, result.final.validation[result.metric]
        lines = self._live_lines
        lines.end(cell.id)
        if identity.stage != "parent" and (self._best is None or value > self._best):
            self._best = value
            lines.best = f"best validation {result.metric} {value:.3f}: {identity.label} at {result.final.parameters:,}"
        seconds = duration(result.cost.train_seconds + result.cost.evaluation_seconds)
        score = f"{result.metric} {value:.3f}"
        if identity.stage == "tune" and result.final.validation_loss is not None:  # which decides there
            score = f"loss {result.final.validation_loss:.4f}"
        self._print(f"{identity.stage} {self._name(cell)}: validation {score}, {seconds}")

    def cell_failed(self, cell: Cell, reason: str, attempts: int) -> None:
        """Prints the reason."""
        self._live_lines.end(cell.id)
        self._print(f"{cell.identity.stage} {self._name(cell)} failed: {reason}")

    def cell_paused(self, cell: Cell, step: int) -> None:
        """Takes it from the running cells."""
        self._live_lines.pause(cell.id)

    def trial_stopped(self, cell: Cell, trial: StoppedTrial) -> None:
        """Prints where it was stopped."""
        self._live_lines.stop(cell.id)
        self._print(f"{cell.identity.stage} {self._name(cell)}: {trial.sentence}")

    def group_retired(self, retired: GroupRetired) -> None:
        """Prints the reason."""
        self._print(f"worker group {retired.group} is not used any more: {retired.reason}")

    def report(self, report: Report, location: str) -> None:
        """Prints the curve, the verdict on each search, the recommendation, and the line that exports it.

        Args:
            location: the sweep's folder or URL.
        """
        chosen = report.recommendation
        self._curve(report.table, report.metric, chosen.point)
        for sentence in (*report.verdicts, chosen.sentence, chosen.next_step):
            self._print(sentence)
        folder, sweep = _as_typed(location), location.rstrip("/").rpartition("/")[2]
        if chosen.adapter is not None:
            self._command("This exports it", recommended_command(folder, chosen.point, sweep))
        elif chosen.smallest_adapter is not None:
            line = export_command(folder, chosen.smallest_adapter.point, sweep=sweep)
            self._command("This exports the smallest adapter that is as good", line)
        elif chosen.adapters:
            line = f"adapad export {folder} --method LABEL --budget BUDGET --to my-adapter"
            self._command("An adapter can be exported all the same", line)

    def summary(self, outcome: SweepOutcome) -> None:
        """Prints the failed cells, the gaps, and how each cell has ended."""
        if outcome.failed:
            self._rich.print(_failures(outcome.failed))
        self.gaps(outcome.gaps)
        self._print(f"\n{outcome.cells_in_words}.")

    def gaps(self, gaps: Sequence[Gap]) -> None:
        """Prints the points that the curve cannot have, with the reasons."""
        for gap in gaps:
            at = "" if gap.budget is None else f" at {gap.budget:,}"
            self._print(f"{gap.label}{at} cannot exist: {gap.reason}")

    def links(self, links: Mapping[str, str | Path]) -> None:
        """Prints where to look, one line each; a terminal that can opens addresses and files by a click."""
        width = max(map(len, links), default=0) + 2
        for name, link in links.items():
            target = _target(str(link))
            style = Style(link=target) if target else Style()
            line = Text(f"{name:<{width}}").append(_as_typed(str(link)), style)
            self._rich.print(line, soft_wrap=True)

    def _curve(self, table: pd.DataFrame, metric: str, recommended: PointKey) -> None:
        """The final models and the recommended one, which is marked; the number of prefixes."""
        view = Table(title=f"{metric} on the test split, mean and 95 % interval", title_justify="left", box=SIMPLE_HEAD)
        for heading in ("method", "budget", "parameters", "mean", "interval", "rank mean / max", "seeds", "train s"):
            view.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
        finals = int((table["kind"] == "final").sum())
        for row in table.to_dict("records"):
            key = PointKey._make(None if pd.isna(row[name]) else row[name] for name in PointKey._fields)
            if key.kind != "final" and key != recommended:
                continue
            cut = "" if key.prefix is None else f" cut to {key.prefix}"
            view.add_row(
                f"{'→' if key == recommended else ' '} {escape(key.label)}{cut}",
                "–" if key.budget is None else f"{key.budget:,}",
                f"{row['parameters']:,.0f}",
                f"{row['test_mean']:.3f}",
                f"{row['test_low']:.3f} – {row['test_high']:.3f}",
                f"{row['mean_rank']:.1f} / {row['max_rank']:.0f}",
                str(row["n_seeds"]),
                f"{row['train_seconds']:.0f}",
                style="bold" if key == recommended else None,
            )
        self._rich.print(fitted(view, self._rich, ("train s", "rank mean / max", "seeds", "budget")))
        self._print("→ marks the recommended row.")
        if prefixes := len(table) - finals:
            self._print(
                f"curve.csv and the figure also hold {counted(prefixes, 'prefix', 'prefixes')}: smaller adapters, each "
                "the first components of a trained one."
            )
        self._print("")

    def _command(self, label: str, line: str) -> None:
        """Prints a line to copy, which is never wrapped."""
        self._print(f"{label}:")
        self._rich.print(f"\n{line}\n", markup=False, highlight=False, soft_wrap=True)

    def _print(self, text: str) -> None:
        self._rich.print(text, markup=False, highlight=False)

    def _lengthen(self, cells: int) -> None:
        self._live_lines.total += cells

    def _name(self, cell: Cell) -> str:
        """Its label and budget, and the settings of a trial or else the seed."""
        identity = cell.identity
        budget = "" if identity.budget is None else f" {identity.budget:,}"
        return f"{identity.label}{budget} {_settings(self._points.get(cell.id, {})) or f'seed {identity.seed}'}"

    @property
    def _live_lines(self) -> LiveLines:
        assert self._lines is not None, "computing_started comes before all events of cells"
        return self._lines


def _failures(failed: Sequence[FailedCell]) -> Table:
    view = Table(title="Failed cells", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("method", "budget", "seed", "reason"):
        view.add_column(heading)
    for cell in failed:
        budget = "–" if cell.budget is None else f"{cell.budget:,}"
        view.add_row(cell.label, budget, str(cell.seed), escape(cell.reason))
    return view


def _as_typed(location: str) -> str:
    """A folder relative to the current one where it lies inside, else as it is."""
    with suppress(ValueError):
        return str(Path(location).relative_to(Path.cwd()))
    return location


def _target(link: str) -> str | None:
    """What a click opens: an address of the web or a file; None for commands and other URLs."""
    if link.startswith(("http://", "https://")):
        return link
    return Path(link).as_uri() if Path(link).is_absolute() and Path(link).exists() else None


def _settings(point: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in point.items()
    )
