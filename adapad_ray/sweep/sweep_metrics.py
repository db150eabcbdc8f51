"""What a sweep exports to Prometheus while it computes: cells by state, points so far, failures and restarts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

from adapad_ray.distributed import JobProgress
from adapad_ray.distributed.ray_metrics import (
    CELLS,
    FAILURES,
    PARAMETERS,
    RESTARTS,
    SCORE,
    SILENCE,
    MetricDefinition,
    RegularReporter,
)
from adapad_ray.results import CellResult
from adapad_ray.sweep.observers import SweepObserver, SweepState
from adapad_ray.sweep.planning.cells import Cell

_LONGEST_TAG = 60
"""Characters of an error's type."""


class SweepMetrics(RegularReporter, SweepObserver):
    """Reports a launch through Ray's metrics, regularly while it computes.

    All gauges are set every time, because Ray forgets those that are not set.
    """

    def __init__(self, sweep: str) -> None:
        super().__init__("sweep-metrics")
        self._tags = {"sweep": sweep}
        self._state = SweepState()
        self._last_progress: dict[str, float] = {}
        """Running cell → time of its last progress, in seconds of the monotonic clock."""
        self._attempts: dict[str, int] = {}

    def computing_started(self, state: SweepState, expected: int, groups: int, dashboard: str | None = None) -> None:
        """Starts to report."""
        self._state = state
        self.report()
        self.__enter__()

    def computing_ended(self) -> None:
        """Reports once more, and stops."""
        self.__exit__(None, None, None)

    def cell_progress(self, cell: Cell, progress: JobProgress) -> None:
        """Records the time."""
        self._last_progress[cell.id] = time.monotonic()
        self._attempts[cell.id] = progress.attempt

    def cell_finished(self, cell: Cell, result: CellResult, attempts: int) -> None:
        """Records that the cell runs no longer."""
        self._end(cell, attempts)

    def cell_failed(self, cell: Cell, reason: str, attempts: int) -> None:
        """Records that the cell runs no longer."""
        self._end(cell, attempts)

    def cell_paused(self, cell: Cell, step: int) -> None:
        """Records that the cell waits."""
        self._last_progress.pop(cell.id, None)

    def report(self) -> None:
        """Sets all gauges."""
        for metric, tags, value in self.values():
            metric.exported.set(value, self._tags | tags)

    def values(self) -> Iterator[tuple[MetricDefinition, dict[str, str], float]]:
        """The current values: metric, tags besides the sweep's name, value."""
        # Copies: the sweep goes on while the thread reads.
        cells, results = dict(self._state.cells), dict(self._state.results)
        failures, last_progress = dict(self._state.failures), dict(self._last_progress)
        stopped = dict(self._state.stopped)
        states = Counter(
            "done" if id in results else "failed" if id in failures else "running" if id in last_progress else "waiting"
            for id in cells
            if id not in stopped
        )
        for state in ("done", "failed", "running", "waiting"):
            yield CELLS, {"state": state}, states[state]
        for result in results.values():
            identity = result.identity
            if identity.stage != "parent":
                tags = {"cell": result.id, "label": identity.label, "stage": identity.stage}
                yield SCORE, {**tags, "metric": result.metric}, result.score
                yield PARAMETERS, tags, result.final.parameters
        errors = Counter(
            (cells[id].identity.label, reason.split(":")[0][:_LONGEST_TAG])
            for id, reason in failures.items()
            if id in cells
        )
        for (label, error), count in errors.items():
            yield FAILURES, {"label": label, "error": error}, count
        yield RESTARTS, {}, sum(max(0, attempts - 1) for attempts in list(self._attempts.values()))
        now = time.monotonic()
        for id, since in last_progress.items():
            if id in cells:
                yield SILENCE, {"cell": id, "label": cells[id].identity.label}, now - since

    def _end(self, cell: Cell, attempts: int) -> None:
        self._last_progress.pop(cell.id, None)
        self._attempts[cell.id] = attempts
