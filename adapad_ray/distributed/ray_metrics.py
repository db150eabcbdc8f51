"""Metrics exported through Ray: all definitions, and the observer that reports those of a running cell.

Ray's agent on each node exports them as `ray_<name>` (counters as `ray_<name>_total`) on the node's metrics port for
Prometheus. The agent drops a gauge that has not been set for two of its report intervals (20 s by default), so the
gauges of a cell, or of a sweep, disappear soon after it ends. Counters stay as long as Ray runs, as Prometheus expects.
Dashboards and alerts (`dashboards/`) are generated from these definitions.
"""

from __future__ import annotations

import functools
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import psutil
import torch
from ray.util.metrics import Counter, Gauge

from adapad_ray.training.record import RoundStats, lane_name

CELL_TAGS = ("sweep", "cell", "label", "worker")
"""Tags of a cell's metrics: the sweep's name, the cell's id and method label, and the worker's rank in the cell."""

SWEEP_TAGS = ("sweep",)
"""Tags of the metrics that a sweep's driver exports."""

REPORT_SECONDS = 5.0
"""Seconds between a worker's reports to Ray, which exports them every 10 s. Gauges stay visible in rounds of any
length, and the cost is negligible."""


@dataclass(frozen=True)
class MetricDefinition:
    """One exported metric."""

    name: str
    kind: Literal["gauge", "counter"]
    description: str
    tags: tuple[str, ...] = ()
    """Tags in addition to those of `owner`."""
    owner: tuple[str, ...] = CELL_TAGS
    """`CELL_TAGS` or `SWEEP_TAGS`."""

    @property
    def exported_name(self) -> str:
        """The name in Prometheus."""
        return f"ray_{self.name}{'_total' if self.kind == 'counter' else ''}"

    @property
    def exported(self) -> Any:
        """Ray's metric object, one per process."""
        return _exported(self)


BUDGET = MetricDefinition(
    "adapad_budget_parameters", "gauge", "The cell's budget of deployed adapter parameters (worker 0)."
)
BUDGET_USED = MetricDefinition(
    "adapad_budget_used_parameters", "gauge", "Active adapter parameters charged to the budget so far (worker 0)."
)
RANK = MetricDefinition("adapad_rank", "gauge", "Active components of a module (worker 0).", ("module",))
LOSS = MetricDefinition("adapad_loss", "gauge", "Mean training loss of a lane over its last round.", ("lane",))
DEFLATION_ERROR = MetricDefinition(
    "adapad_deflation_error",
    "gauge",
    "Relative change of a lane's estimate since this worker last read it: the error in the targets of the lanes above.",
    ("lane",),
)
STALENESS = MetricDefinition(
    "adapad_staleness_rounds", "gauge", "Rounds between the newest estimates and those that lanes read."
)
TOKENS_PER_SECOND = MetricDefinition(
    "adapad_tokens_per_second", "gauge", "Tokens per second through a worker's forward and backward passes."
)
TOKENS = MetricDefinition(
    "adapad_tokens", "counter", "Tokens through a worker's forward and backward passes, without padding."
)
SECONDS = MetricDefinition(
    "adapad_seconds", "counter", "Seconds of training that a worker spent on compute, wait or exchange.", ("phase",)
)
BYTES_PUBLISHED = MetricDefinition("adapad_published_bytes", "counter", "Bytes that a worker has published.")
BYTES_FETCHED = MetricDefinition("adapad_fetched_bytes", "counter", "Bytes that a worker has fetched.")

MEMORY = MetricDefinition(
    "adapad_worker_memory_bytes",
    "gauge",
    "Resident memory of a worker's process (host), and memory of its tensors on its GPU (gpu); an equal share of both "
    "where cells train side by side in it.",
    ("kind",),
)
SIDE_BY_SIDE = MetricDefinition(
    "adapad_cells_side_by_side", "gauge", "Cells that a worker started together, whose lanes share passes."
)

CELLS = MetricDefinition(
    "adapad_cells",
    "gauge",
    "Known cells of the sweep by state: done, failed, running, waiting.",
    ("state",),
    SWEEP_TAGS,
)
POINT = ("cell", "label", "stage")
SCORE = MetricDefinition(
    "adapad_cell_score", "gauge", "Validation metric of a finished cell's final model.", (*POINT, "metric"), SWEEP_TAGS
)
PARAMETERS = MetricDefinition(
    "adapad_cell_parameters",
    "gauge",
    "Deployed adapter parameters of a finished cell's final model.",
    POINT,
    SWEEP_TAGS,
)
FAILURES = MetricDefinition(
    "adapad_cell_failures",
    "gauge",
    "Cells without a result, by the type of their error.",
    ("label", "error"),
    SWEEP_TAGS,
)
RESTARTS = MetricDefinition(
    "adapad_cell_restarts",
    "gauge",
    "Repeated attempts at cells in this launch, after a worker died.",
    (),
    SWEEP_TAGS,
)
SILENCE = MetricDefinition(
    "adapad_cell_silent_seconds",
    "gauge",
    "Seconds since the last report of a running cell.",
    ("cell", "label"),
    SWEEP_TAGS,
)

CELL_METRICS = (
    BUDGET,
    BUDGET_USED,
    RANK,
    LOSS,
    DEFLATION_ERROR,
    STALENESS,
    TOKENS_PER_SECOND,
    TOKENS,
    SECONDS,
    BYTES_PUBLISHED,
    BYTES_FETCHED,
    MEMORY,
    SIDE_BY_SIDE,
)
"""Exported by the workers of a running cell."""

SWEEP_METRICS = (CELLS, SCORE, PARAMETERS, FAILURES, RESTARTS, SILENCE)
"""Exported by the driver of a sweep (`sweep/sweep_metrics.py`)."""


class RegularReporter(ABC):
    """A context manager that calls `report` in a thread every `REPORT_SECONDS`, and once more at its end."""

    def __init__(self, name: str) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._report_regularly, name=name, daemon=True)

    @abstractmethod
    def report(self) -> None:
        """Pass the current values to Ray."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self.report()

    def _report_regularly(self) -> None:
        while not self._ended.wait(REPORT_SECONDS):
            self.report()


class CellMetrics(RegularReporter):
    """Reports the rounds of one worker while its cell runs: a round observer and the context in which it reports.

    Observing a round only stores it for the next report. A report repeats the last gauges if no round has ended.

    Args:
        budget: deployed adapter parameters, for a cell with a budget.
        device: the worker's device, as torch spells it.
        side_by_side: cells that this process has started together.
    """

    def __init__(
        self,
        sweep: str,
        cell: str,
        label: str,
        worker: int,
        *,
        budget: int | None = None,
        device: str = "cpu",
        side_by_side: int = 1,
    ) -> None:
        super().__init__("metrics")
        self._tags = dict(zip(CELL_TAGS, (sweep, cell, label, str(worker)), strict=True))
        self._reports_cell = worker == 0
        self._budget, self._device, self._side_by_side = budget, device, side_by_side
        self._process = psutil.Process()
        self._rounds: deque[RoundStats] = deque()
        """Rounds that have not been reported."""
        self._gauges: list[tuple[MetricDefinition, dict[str, str], float]] = []

    def __call__(self, stats: RoundStats) -> None:
        self._rounds.append(stats)

    def report(self) -> None:
        """Report the rounds since the last report, the state after the last of them, and memory."""
        rounds = [self._rounds.popleft() for _ in range(len(self._rounds))]
        if rounds:
            tokens = sum(r.tokens for r in rounds)
            self._count(TOKENS, tokens)
            self._count(BYTES_PUBLISHED, sum(r.bytes_published for r in rounds))
            self._count(BYTES_FETCHED, sum(r.bytes_fetched for r in rounds))
            for phase in ("compute", "wait", "exchange"):
                self._count(SECONDS, sum(getattr(r, f"{phase}_seconds") for r in rounds), phase=phase)
            speed = tokens / max(sum(r.seconds for r in rounds), 1e-9)
            self._gauges = [(TOKENS_PER_SECOND, {}, speed), *self._gauges_of(rounds[-1])]
        for metric, tags, value in (*self._gauges, *self._always()):
            metric.exported.set(value, self._tags | tags)

    def _always(self) -> Iterator[tuple[MetricDefinition, dict[str, str], float]]:
        yield SIDE_BY_SIDE, {}, self._side_by_side
        yield MEMORY, {"kind": "host"}, self._process.memory_info().rss / self._side_by_side
        if self._device.startswith("cuda"):
            yield MEMORY, {"kind": "gpu"}, torch.cuda.memory_allocated(self._device) / self._side_by_side
        if self._reports_cell and self._budget is not None:
            yield BUDGET, {}, self._budget

    def _gauges_of(self, stats: RoundStats) -> Iterator[tuple[MetricDefinition, dict[str, str], float]]:
        for metric, by_lane in ((LOSS, stats.losses), (DEFLATION_ERROR, stats.movement)):
            for k, value in by_lane.items():
                yield metric, {"lane": lane_name(k)}, value
        yield STALENESS, {}, stats.staleness
        if self._reports_cell:
            yield BUDGET_USED, {}, stats.parameters
            for module, rank in stats.ranks.items():
                yield RANK, {"module": module}, rank

    def _count(self, metric: MetricDefinition, amount: float, **tags: str) -> None:
        if amount > 0:
            metric.exported.inc(amount, self._tags | tags)


@functools.cache
def _exported(metric: MetricDefinition) -> Any:
    kind = Gauge if metric.kind == "gauge" else Counter
    return kind(metric.name, metric.description, (*metric.owner, *metric.tags))
