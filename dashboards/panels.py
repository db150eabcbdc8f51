"""What the two Grafana dashboards show: rows of panels, panels of queries.

Metric names come from `adapad_ray.distributed.ray_metrics`, shared series from `rules`; nothing here spells one.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapad_ray.distributed.ray_metrics import (
    BUDGET,
    BUDGET_USED,
    BYTES_FETCHED,
    BYTES_PUBLISHED,
    CELLS,
    DEFLATION_ERROR,
    FAILURES,
    LOSS,
    MEMORY,
    PARAMETERS,
    RANK,
    RESTARTS,
    SCORE,
    SILENCE,
    STALENESS,
    TOKENS_PER_SECOND,
    MetricDefinition,
)
from dashboards.rules import BUDGET_SHARE, DONE_SHARE, RATE, TIME_SHARE, TOKEN_RATE, Recording


@dataclass(frozen=True)
class Query:
    """One PromQL expression; `$sweep` and `$cell` are the dashboard's variables."""

    expr: str
    legend: str = ""
    table: bool = False
    """The present values as rows, instead of series over time."""
    empty: str = ""
    """Why it may be without data in a healthy sweep."""


@dataclass(frozen=True)
class Panel:
    """A panel of half the width, or of `width` of 24 columns."""

    title: str
    description: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    """Grafana's panel type; `xychart` draws the second query against the first, matched by cell."""
    unit: str = "short"
    logarithmic: bool = False
    stacked: bool = False
    width: int = 12


@dataclass(frozen=True)
class Dashboard:
    """A dashboard; its variables are filled with the tag values of a metric, each narrowed by those before it."""

    uid: str
    title: str
    description: str
    variables: tuple[tuple[str, MetricDefinition], ...]
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]

    @property
    def panels(self) -> list[Panel]:
        """Of all rows."""
        return [panel for _, panels in self.rows for panel in panels]


def _sweep(series: MetricDefinition | Recording, *more: str) -> str:
    return _select(series, 'sweep=~"$sweep"', *more)


def _cell(series: MetricDefinition | Recording, *more: str) -> str:
    return _select(series, 'sweep=~"$sweep"', 'cell=~"$cell"', *more)


def _select(series: MetricDefinition | Recording, *matchers: str) -> str:
    name = series.exported_name if isinstance(series, MetricDefinition) else series.name
    return f"{name}{{{','.join(matchers)}}}"


DONE = 'state="done"'
HOST, GPU = 'kind="host"', 'kind="gpu"'
WAIT = 'phase="wait"'

SWEEPS = Dashboard(
    uid="adapad-sweeps",
    title="adapad: sweeps",
    description="How far sweeps are, what their points look like so far, and what fails.",
    variables=(("sweep", CELLS),),
    rows=(
        (
            "Progress",
            (
                Panel(
                    "Cells by state",
                    "Cells that are known by now: those of a search are drawn one after the other.",
                    (Query(f"sum by (state) ({_sweep(CELLS)})", "{{state}}"),),
                    stacked=True,
                ),
                Panel(
                    "Done",
                    "Share of the known cells.",
                    (Query(_sweep(DONE_SHARE), "{{sweep}}"),),
                    kind="gauge",
                    unit="percentunit",
                    width=6,
                ),
                Panel(
                    "Cells per hour",
                    "From the cells finished in the last ten minutes.",
                    (Query(f"6 * sum by (sweep) (delta({_sweep(CELLS, DONE)}[10m]))", "{{sweep}}"),),
                    kind="stat",
                    width=6,
                ),
            ),
        ),
        (
            "Points",
            (
                Panel(
                    "Validation metric against parameters so far",
                    "Final models of the cells finished by now. The test split is in the report only.",
                    (
                        Query(f"max by (cell, label, stage) ({_sweep(PARAMETERS)})", table=True),
                        Query(f"max by (cell, label, stage) ({_sweep(SCORE)})", table=True),
                    ),
                    kind="xychart",
                    width=14,
                ),
                Panel(
                    "Best so far",
                    "Highest validation metric of a label, over all budgets and stages.",
                    (Query(f"max by (label) ({_sweep(SCORE)})", "{{label}}"),),
                    width=10,
                ),
            ),
        ),
        (
            "Running cells",
            (
                Panel(
                    "Budget used",
                    "Share of its budget that a running cell has given to components; growth methods start low.",
                    (Query(_sweep(BUDGET_SHARE), "{{label}} {{cell}}"),),
                    unit="percentunit",
                ),
                Panel(
                    "Throughput",
                    "Tokens through forward and backward passes; exact deflation passes each token once a lane.",
                    (Query(f"sum by (label) ({_sweep(TOKEN_RATE)})", "{{label}}"),),
                    unit="short",
                    stacked=True,
                ),
                Panel(
                    "Memory of all workers",
                    "Resident memory of the processes, the shared backbone counted in each.",
                    (
                        Query(f"sum by (sweep) ({_sweep(MEMORY, HOST)})", "{{sweep}} host"),
                        Query(f"sum by (sweep) ({_sweep(MEMORY, GPU)})", "{{sweep}} gpu", empty="no worker has a GPU"),
                    ),
                    unit="bytes",
                ),
                Panel(
                    "Nodes",
                    "Ray's own figures: how busy CPUs and memory of each node are.",
                    (
                        Query("avg by (instance) (ray_node_cpu_utilization) / 100", "CPU {{instance}}"),
                        Query("max by (instance) (ray_node_mem_used / ray_node_mem_total)", "memory {{instance}}"),
                    ),
                    unit="percentunit",
                ),
            ),
        ),
        (
            "Failures",
            (
                Panel(
                    "Failed cells",
                    "By label and type of error.",
                    (
                        Query(
                            f"max by (label, error) ({_sweep(FAILURES)})",
                            "{{label}}: {{error}}",
                            empty="no cell has failed",
                        ),
                    ),
                    width=8,
                ),
                Panel(
                    "Repeated attempts",
                    "Starts of cells beyond the first, because a worker died, since the launch began.",
                    (Query(f"max by (sweep) ({_sweep(RESTARTS)})", "{{sweep}}"),),
                    width=8,
                ),
                Panel(
                    "Silence of running cells",
                    "Seconds since a cell was last heard of. Evaluation is silent.",
                    (Query(f"max by (label, cell) ({_sweep(SILENCE)})", "{{label}} {{cell}}"),),
                    unit="s",
                    width=8,
                ),
            ),
        ),
    ),
)

RUN = Dashboard(
    uid="adapad-run",
    title="adapad: one deflation run",
    description="Lanes, ranks and workers of one cell while it trains.",
    variables=(("sweep", STALENESS), ("cell", STALENESS)),
    rows=(
        (
            "Components",
            (
                Panel(
                    "Rank per module",
                    "Active components; they grow where growth scores are highest.",
                    (Query(f"max by (module) ({_cell(RANK)})", "{{module}}"),),
                ),
                Panel(
                    "Parameters",
                    "Charged to the budget, and the budget.",
                    (
                        Query(f"max by (cell) ({_cell(BUDGET_USED)})", "used {{cell}}"),
                        Query(f"max by (cell) ({_cell(BUDGET)})", "budget {{cell}}"),
                    ),
                ),
                Panel(
                    "Loss per lane",
                    "Mean training loss of a lane over its last round. Lane k is the prefix model of k components.",
                    (Query(f"max by (lane) ({_cell(LOSS)})", "lane {{lane}}"),),
                ),
                Panel(
                    "Deflation error per lane",
                    "How far a lane's estimate has moved since it was read: what the lanes above it had wrong.",
                    (Query(f"max by (lane) ({_cell(DEFLATION_ERROR)})", "lane {{lane}}"),),
                    logarithmic=True,
                ),
            ),
        ),
        (
            "Workers",
            (
                Panel(
                    "Compute, exchange and wait",
                    "Shares of the time of all workers of the cell.",
                    (Query(f"avg by (phase) ({_cell(TIME_SHARE)})", "{{phase}}"),),
                    unit="percentunit",
                    stacked=True,
                ),
                Panel(
                    "Waiting",
                    "Share of each worker's time. The one that never waits is the one the others wait for.",
                    (Query(f"max by (worker) ({_cell(TIME_SHARE, WAIT)})", "worker {{worker}}"),),
                    unit="percentunit",
                ),
                Panel(
                    "Staleness",
                    "Rounds between the newest estimates and those that are read.",
                    (Query(f"max by (worker) ({_cell(STALENESS)})", "worker {{worker}}"),),
                ),
                Panel(
                    "Exchange",
                    "Bytes a second that workers publish and fetch.",
                    (
                        Query(
                            f"sum by (worker) (rate({_cell(BYTES_PUBLISHED)}[{RATE}]))",
                            "published by {{worker}}",
                            empty="the cell has one worker",
                        ),
                        Query(
                            f"sum by (worker) (rate({_cell(BYTES_FETCHED)}[{RATE}]))",
                            "fetched by {{worker}}",
                            empty="the cell has one worker",
                        ),
                    ),
                    unit="Bps",
                ),
                Panel(
                    "Tokens per second",
                    "Of each worker, during its last rounds.",
                    (Query(f"max by (worker) ({_cell(TOKENS_PER_SECOND)})", "worker {{worker}}"),),
                ),
                Panel(
                    "Memory",
                    "Resident memory of each worker's process, and what its tensors take on its GPU.",
                    (
                        Query(f"max by (worker) ({_cell(MEMORY, HOST)})", "worker {{worker}} host"),
                        Query(f"max by (worker) ({_cell(MEMORY, GPU)})", "worker {{worker}} gpu", empty="no GPU"),
                    ),
                    unit="bytes",
                ),
            ),
        ),
    ),
)

DASHBOARDS = (SWEEPS, RUN)
