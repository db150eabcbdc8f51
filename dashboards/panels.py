"""The two Grafana dashboards: rows of panels with queries.

Metric names come from `adapad_ray.distributed.ray_metrics`, recorded series from `rules`.
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
    SIDE_BY_SIDE,
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
    """Whether the query returns current values as rows instead of series over time."""
    empty: str = ""
    """Why the query may return no data in a healthy sweep."""


@dataclass(frozen=True)
class Panel:
    """A panel; `width` is in Grafana's 24 columns."""

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
    """A dashboard. A variable lists the values of a metric's tag, filtered by the variables before it."""

    uid: str
    title: str
    description: str
    variables: tuple[tuple[str, MetricDefinition], ...]
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]

    @property
    def panels(self) -> list[Panel]:
        """The panels of all rows."""
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
    description="Progress of sweeps, results so far, and failures.",
    variables=(("sweep", CELLS),),
    rows=(
        (
            "Progress",
            (
                Panel(
                    "Cells by state",
                    "All cells created so far; a search creates its cells one after the other.",
                    (Query(f"sum by (state) ({_sweep(CELLS)})", "{{state}}"),),
                    stacked=True,
                ),
                Panel(
                    "Done",
                    "Share of the cells created so far.",
                    (Query(_sweep(DONE_SHARE), "{{sweep}}"),),
                    kind="gauge",
                    unit="percentunit",
                    width=6,
                ),
                Panel(
                    "Cells per hour",
                    "Rate over the last ten minutes.",
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
                    "Final models of the finished cells. Only the report shows the test split.",
                    (
                        Query(f"max by (cell, label, stage) ({_sweep(PARAMETERS)})", table=True),
                        Query(f"max by (cell, label, stage) ({_sweep(SCORE)})", table=True),
                    ),
                    kind="xychart",
                    width=14,
                ),
                Panel(
                    "Best so far",
                    "Highest validation metric per label, over all budgets and stages.",
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
                    "Share of the budget that a running cell has spent on components; growth methods start low.",
                    (Query(_sweep(BUDGET_SHARE), "{{label}} {{cell}}"),),
                    unit="percentunit",
                ),
                Panel(
                    "Throughput",
                    "Tokens per second in forward and backward passes; deflation passes each token once per lane.",
                    (Query(f"sum by (label) ({_sweep(TOKEN_RATE)})", "{{label}}"),),
                    unit="short",
                    stacked=True,
                ),
                Panel(
                    "Memory of all workers",
                    "Resident memory of the processes; each counts the shared backbone.",
                    (
                        Query(f"sum by (sweep) ({_sweep(MEMORY, HOST)})", "{{sweep}} host"),
                        Query(f"sum by (sweep) ({_sweep(MEMORY, GPU)})", "{{sweep}} gpu", empty="no worker has a GPU"),
                    ),
                    unit="bytes",
                ),
                Panel(
                    "Cells side by side",
                    "Cells that a worker trains together, in shared passes; 1 where nothing is packed.",
                    (Query(f"max by (label) ({_sweep(SIDE_BY_SIDE)})", "{{label}}"),),
                ),
                Panel(
                    "Nodes",
                    "CPU and memory utilisation of each node, from Ray's own metrics.",
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
                    "Restarts of cells after a worker died, since the launch.",
                    (Query(f"max by (sweep) ({_sweep(RESTARTS)})", "{{sweep}}"),),
                    width=8,
                ),
                Panel(
                    "Silence of running cells",
                    "Seconds since a cell's last report. There are no reports during evaluation.",
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
    description="Lanes, ranks and workers of one cell during training.",
    variables=(("sweep", STALENESS), ("cell", STALENESS)),
    rows=(
        (
            "Components",
            (
                Panel(
                    "Rank per module",
                    "Active components; modules with the highest scores grow.",
                    (Query(f"max by (module) ({_cell(RANK)})", "{{module}}"),),
                ),
                Panel(
                    "Parameters",
                    "Parameters charged to the budget, and the budget.",
                    (
                        Query(f"max by (cell) ({_cell(BUDGET_USED)})", "used {{cell}}"),
                        Query(f"max by (cell) ({_cell(BUDGET)})", "budget {{cell}}"),
                    ),
                ),
                Panel(
                    "Loss per lane",
                    "Mean training loss of a lane in its last round. Lane k is the model of k components per module.",
                    (Query(f"max by (lane) ({_cell(LOSS)})", "lane {{lane}}"),),
                ),
                Panel(
                    "Deflation error per lane",
                    "Relative change of a lane's estimate since it was last read: the error in the lanes above.",
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
                    "Share of the time of the cell's workers.",
                    (Query(f"avg by (phase) ({_cell(TIME_SHARE)})", "{{phase}}"),),
                    unit="percentunit",
                    stacked=True,
                ),
                Panel(
                    "Waiting",
                    "Share of each worker's time. The others wait for the worker that never waits.",
                    (Query(f"max by (worker) ({_cell(TIME_SHARE, WAIT)})", "worker {{worker}}"),),
                    unit="percentunit",
                ),
                Panel(
                    "Staleness",
                    "Rounds between the newest estimates and those in use.",
                    (Query(f"max by (worker) ({_cell(STALENESS)})", "worker {{worker}}"),),
                ),
                Panel(
                    "Exchange",
                    "Bytes per second that workers publish and fetch.",
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
                    "Per worker, in its last rounds.",
                    (Query(f"max by (worker) ({_cell(TOKENS_PER_SECOND)})", "worker {{worker}}"),),
                ),
                Panel(
                    "Memory",
                    "Resident memory of each worker's process, and the memory of its tensors on the GPU.",
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
