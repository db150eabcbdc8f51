"""Prometheus's recording rules, which panels share, and alerts.

Metric names come from `adapad_ray.distributed.ray_metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapad_ray.distributed.ray_metrics import (
    BUDGET,
    BUDGET_USED,
    CELLS,
    FAILURES,
    RESTARTS,
    SECONDS,
    SILENCE,
    STALENESS,
    TOKENS,
)

RATE = "1m"
"""Window of all rates: six scrapes, and short compared with a cell."""


@dataclass(frozen=True)
class Recording:
    """A series that Prometheus computes once for several panels and alerts."""

    name: str
    expr: str


TOKEN_RATE = Recording(
    "adapad:tokens:rate",
    f"sum by (sweep, cell, label, worker) (rate({TOKENS.exported_name}[{RATE}]))",
)
TIME_SHARE = Recording(
    "adapad:seconds:share",
    f"sum by (sweep, cell, worker, phase) (rate({SECONDS.exported_name}[{RATE}]))"
    f" / ignoring (phase) group_left sum by (sweep, cell, worker) (rate({SECONDS.exported_name}[{RATE}]) > 0)",
)
BUDGET_SHARE = Recording(
    "adapad:budget:share",
    f"max by (sweep, cell, label) ({BUDGET_USED.exported_name}) / max by (sweep, cell, label) ({BUDGET.exported_name})",
)
DONE_SHARE = Recording(
    "adapad:cells:done_share",
    f'sum by (sweep) ({CELLS.exported_name}{{state="done"}}) / sum by (sweep) ({CELLS.exported_name})',
)
RECORDINGS = (TOKEN_RATE, TIME_SHARE, BUDGET_SHARE, DONE_SHARE)


@dataclass(frozen=True)
class Alert:
    """An alert; it fires when `value`, a series that exists while a sweep runs, meets `condition`.

    All thresholds are project defaults.
    """

    name: str
    value: str
    condition: str
    wait: str
    """How long the condition must hold."""
    severity: str
    summary: str
    """Text of the notification; may use the labels of `value`."""
    advice: str
    """What the alert means and what to do."""
    empty: str = ""
    """Why `value` may have no data in a healthy sweep."""

    @property
    def expr(self) -> str:
        """The expression for Prometheus."""
        return f"({self.value}) {self.condition}"


ALERTS = (
    Alert(
        "AdapadCellStuck",
        f"max by (sweep, cell, label) ({SILENCE.exported_name})",
        "> 900",
        "1m",
        "warning",
        "Cell {{ $labels.cell }} ({{ $labels.label }}) of {{ $labels.sweep }} has been silent for 15 minutes.",
        "A running cell reports every step, except during evaluation, which can take this long on a large split. "
        "Otherwise inspect the stack trace of its worker in Ray's dashboard and kill the process: the cell continues "
        "from its last checkpoint.",
    ),
    Alert(
        "AdapadNothingRuns",
        f'sum by (sweep) ({CELLS.exported_name}{{state="waiting"}}) > 0'
        f' unless on (sweep) sum by (sweep) ({CELLS.exported_name}{{state="running"}}) > 0',
        "> 0",
        "10m",
        "warning",
        "{{ $labels.sweep }} has {{ $value }} cells waiting and none running.",
        "The worker groups cannot be placed (other jobs hold the CPUs or GPUs, or nodes were lost), or they die during "
        "their start: see `ray status` and the log of the job.",
        empty="cells are running",
    ),
    Alert(
        "AdapadNotANumber",
        f'max by (sweep, label) (max_over_time({FAILURES.exported_name}{{error="DivergedError"}}[15m]))',
        "> 0",
        "0s",
        "warning",
        "{{ $value }} cells of {{ $labels.label }} in {{ $labels.sweep }} diverged (NaN or infinite).",
        "The message in the table of failed cells names the lane and the step. Lower the label's learning rate, or the "
        "upper end of its range in `tune.space` or `methods.<label>.space`.",
        empty="no cell has diverged",
    ),
    Alert(
        "AdapadCellsFail",
        f'max by (sweep, label, error) (max_over_time({FAILURES.exported_name}{{error!="DivergedError"}}[15m]))',
        "> 0",
        "0s",
        "critical",
        "{{ $value }} cells of {{ $labels.label }} in {{ $labels.sweep }} failed with {{ $labels.error }}.",
        "The cause is not divergence but probably the machine: out of memory, a full disk, or a worker that died in "
        "every attempt. The command ends with exit code 1 and a table of failed cells; run it again to retry them.",
        empty="no cell has failed",
    ),
    Alert(
        "AdapadStalenessAtBound",
        f"max by (sweep, cell, worker) ({STALENESS.exported_name}) > 0"
        f' and on (sweep, cell, worker) {TIME_SHARE.name}{{phase="wait"}} > 0.25',
        "> 0",
        "5m",
        "warning",
        "Worker {{ $labels.worker }} of {{ $labels.cell }} uses estimates {{ $value }} rounds old, and waits.",
        "A worker waits when its estimates are `staleness` rounds old. Waiting for a quarter of the time means that "
        "one worker or link is slow: find the worker that never waits. Raise local_steps, or use fewer workers.",
        empty="no worker waits at the bound",
    ),
    Alert(
        "AdapadWorkersRestart",
        f"max by (sweep) (increase({RESTARTS.exported_name}[15m]))",
        ">= 3",
        "0s",
        "warning",
        "Workers of {{ $labels.sweep }} died: {{ $value | humanize }} cells were restarted in 15 minutes.",
        "Only time is lost. The usual cause is memory: compare the memory panel with the node, and lower batch_size or "
        "raise cpus_per_worker or gpus_per_worker, so that fewer cells share a node.",
    ),
)
