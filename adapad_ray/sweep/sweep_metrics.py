"""What a sweep exports to Prometheus while it computes: its cells by state, its points so far, and what goes wrong."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Self

from adapad_ray.distributed import JobOutcome, JobProgress
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
from adapad_ray.sweep.cells import Cell

_LONGEST_TAG = 60


class SweepMetrics(RegularReporter):
    """Reports a launch through Ray's metrics until its block ends: what it saw of the pool, and the sweep's own tables.

    All gauges are set every time, or Ray would forget them.

    Args:
        cells: the launch's cells by id, which grow while it runs.
        results: the finished ones.
        reasons: why others have failed, as `<type>: <message>`.
    """

    def __init__(
        self, sweep: str, cells: Mapping[str, Cell], results: Mapping[str, CellResult], reasons: Mapping[str, str]
    ) -> None:
        super().__init__("sweep-metrics")
        self._tags = {"sweep": sweep}
        self._cells, self._results, self._reasons = cells, results, reasons
        self._heard: dict[str, float] = {}
        """Running cell → when it was last heard of."""
        self._attempts: dict[str, int] = {}

    def __enter__(self) -> Self:
        self.report()
        return super().__enter__()

    def observe(self, event: JobProgress | JobOutcome) -> None:
        """Something that the pool has said of a cell."""
        if isinstance(event, JobOutcome):
            self._heard.pop(event.job_id, None)
            self._attempts[event.job_id] = event.attempts
        else:
            self._heard[event.job_id] = time.monotonic()
            self._attempts[event.job_id] = event.attempt

    def report(self) -> None:
        """Set all gauges to `figures`."""
        for metric, tags, value in self.figures():
            metric.exported.set(value, self._tags | tags)

    def figures(self) -> Iterator[tuple[MetricDefinition, dict[str, str], float]]:
        """What is to be said now: metric, its tags beside the sweep, value."""
        # Copies: the sweep goes on while this thread reads.
        cells, results, reasons, heard = dict(self._cells), dict(self._results), dict(self._reasons), dict(self._heard)
        states = Counter(
            "done" if id in results else "failed" if id in reasons else "running" if id in heard else "waiting"
            for id in cells
        )
        for state in ("done", "failed", "running", "waiting"):
            yield CELLS, {"state": state}, states[state]
        for result in results.values():
            identity = result.identity
            if identity.stage != "parent":
                tags = {"cell": result.id, "label": identity.label, "stage": identity.stage}
                yield SCORE, {**tags, "metric": result.metric}, result.score
                yield PARAMETERS, tags, result.final.parameters
        failures = Counter(
            (cells[id].identity.label, reason.split(":")[0][:_LONGEST_TAG])
            for id, reason in reasons.items()
            if id in cells
        )
        for (label, error), count in failures.items():
            yield FAILURES, {"label": label, "error": error}, count
        yield RESTARTS, {}, sum(max(0, attempts - 1) for attempts in list(self._attempts.values()))
        now = time.monotonic()
        for id, since in heard.items():
            if id in cells:
                yield SILENCE, {"cell": id, "label": cells[id].identity.label}, now - since
