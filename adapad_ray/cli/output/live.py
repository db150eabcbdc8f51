"""The lines below the scrolling output while a sweep computes: progress and time left, running cells, the best."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from adapad_ray.sweep.observers import SweepState, Work
from adapad_ray.wording import clock, duration

SHORTEST_BAR, LONGEST_BAR = 8, 40
"""Columns."""
_GAP = "  "


@dataclass
class RunningCell:
    """A cell whose training has reported its progress."""

    name: str
    stage: str
    resumed: float
    """Share of its steps that an earlier attempt had done."""
    done: float
    """Share of its steps."""


@dataclass
class LiveLines:
    """What rich draws below the scrolling output; a thread of rich's reads it while the launch changes it.

    Counts, phase and time are always shown in full: the bar takes the columns that are left, and goes first where there
    are too few.
    """

    state: SweepState
    total: int
    """Expected number of cells."""
    now: Callable[[], float] = time.monotonic
    phase: str = "starting"
    best: str = ""
    ended: int = 0
    """Cells that are finished, stopped or have failed, in this launch or before."""
    running: dict[str, RunningCell] = field(default_factory=dict)
    """By cell id."""
    _paused: dict[str, float] = field(default_factory=dict)
    """Waiting cell → share of its steps that it has done."""
    _passes_ended: float = 0.0
    _first_progress: float | None = None

    def __post_init__(self) -> None:
        self._began = self.now()

    def progress(self, cell_id: str, name: str, stage: str, step: int, steps: int, resumed: int) -> None:
        """Records how far a cell is, in optimizer steps. The phase is that of all running cells."""
        if self._first_progress is None:
            self._first_progress = self.now()
        self._paused.pop(cell_id, None)
        cell = self.running.setdefault(cell_id, RunningCell(name, stage, resumed / steps, 0.0))
        cell.done = step / steps
        self.phase = " + ".join(sorted({cell.stage for cell in self.running.values()}, reverse=True))

    def end(self, cell_id: str) -> None:
        """Records that a cell of this launch is finished or has failed."""
        cell, work = self.running.pop(cell_id, None), self._work_of(cell_id)
        self._passes_ended += work.training * (1.0 - (cell.resumed if cell else 0.0)) + work.evaluation
        self.ended += 1

    def pause(self, cell_id: str) -> None:
        """Records that a cell of this launch waits for others."""
        if (cell := self.running.pop(cell_id, None)) is not None:
            self._passes_ended += self._work_of(cell_id).training * (cell.done - cell.resumed)
            self._paused[cell_id] = cell.done

    def stop(self, cell_id: str) -> None:
        """Records that a cell does not go on."""
        self._paused.pop(cell_id, None)
        self.ended += 1

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the passes that are done and those that are left; None before the first are done.

        A cell whose passes are not known yet counts as much as the mean of the curve.
        """
        work, running = self._work_of, dict(self.running)
        done = self._passes_ended + sum(work(id).training * (c.done - c.resumed) for id, c in running.items())
        if self._first_progress is None or done <= 0 or (passed := self.now() - self._first_progress) <= 0:
            return None
        state = self.state
        ended = (state.results, state.failures, state.stopped)
        known = [id for id in list(state.cells) if not any(id in group for group in ended)]
        left = float(sum(map(sum, map(work, known)))) - sum(work(id).training * c.done for id, c in running.items())
        left -= sum(work(id).training * share for id, share in dict(self._paused).items())
        left += sum(state.mean_work) * max(0, self.total - self.ended - len(known))
        return passed * max(0.0, left) / done

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        words = self._words(width)
        bar = min(LONGEST_BAR, width - sum(len(word) for word in words) - len(_GAP) * len(words))
        line = Text(words[0], "bold", no_wrap=True, overflow="crop")
        if bar >= SHORTEST_BAR:
            filled = bar * self.ended // max(self.total, 1)
            line.append(_GAP).append("━" * filled, "bar.complete").append("─" * (bar - filled), "bar.back")
        line.append("".join(_GAP + word for word in words[1:]), "not bold")
        yield line
        for text in filter(None, (self._running_in(width), self.best)):
            yield Text(text, no_wrap=True, overflow="ellipsis")

    def _words(self, width: int) -> list[str]:
        """Phase, counts, and the times that fit."""
        left = self.seconds_left
        words = [self.phase, f"{self.ended}/{self.total} cells"]
        for word in (f"about {duration(left)} left" if left is not None else "", clock(self.now() - self._began)):
            if word and sum(map(len, [*words, word])) + len(_GAP) * len(words) <= width:
                words.append(word)
        return words

    def _running_in(self, width: int) -> str:
        """The running cells that fit, and how many more there are."""
        shares = [(cell.name, cell.done) for cell in list(self.running.values())]
        cells = [f"{name} {f'{done:.0%}' if done < 1 else 'evaluating'}" for name, done in shares]
        for shown in range(len(cells), 0, -1):
            more = [f"+ {len(cells) - shown} more"] if shown < len(cells) else []
            text = " · ".join([*cells[:shown], *more])
            if len(text) <= width:
                return text
        return cells[0] if cells else ""

    def _work_of(self, cell_id: str) -> Work:
        return self.state.work.get(cell_id, self.state.mean_work)
