"""Logs a report as a run, with each label's curve as a metric whose step is the parameter count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from adapad_ray.tracking.names import REPORT, SUPERSEDED, mlflow_key
from adapad_ray.tracking.runs import SweepRuns

if TYPE_CHECKING:
    from mlflow.entities import Metric


class LoggedReport(NamedTuple):
    """The run of a report."""

    run_id: str
    curves: list[str]
    """Names of the metrics that are curves."""


def log_report(runs: SweepRuns, table: pd.DataFrame, files: Sequence[Path], digest: str) -> LoggedReport:
    """Logs the report on the finished cells with this digest, once, and marks all other reports as superseded.

    MLflow keeps every value that is logged at a step, so each set of finished cells has a run of its own.
    """
    run = runs.reports.get(digest)
    if run is None:
        run = runs.create(f"report {digest[:8]}", {REPORT: digest})
        runs.reports[digest] = run
    metrics = _curve_metrics(table, run.info.start_time)
    if run.info.status != "FINISHED":
        runs.log(run.info.run_id, metrics)
        for file in files:
            runs.client.log_artifact(run.info.run_id, str(file))
        runs.finish(run)
    for other, report in runs.reports.items():
        superseded = str(other != digest).lower()
        if report.data.tags.get(SUPERSEDED, "false") != superseded:
            runs.client.set_tag(report.info.run_id, SUPERSEDED, superseded)
            report.data.tags[SUPERSEDED] = superseded
    return LoggedReport(run.info.run_id, sorted({metric.key for metric in metrics}))


def _curve_metrics(table: pd.DataFrame, time: int) -> list[Metric]:
    """The test metric at each parameter count. Of two models of equal size the better on validation is logged."""
    from mlflow.entities import Metric

    values: dict[tuple[str, int], float] = {}
    for row in table.sort_values("validation_mean").to_dict("records"):
        suffix = "/prefixes" if row["kind"] == "prefix" else ""
        values[mlflow_key(f"curve/{row['label']}{suffix}"), round(row["parameters"])] = float(row["test_mean"])
    return [Metric(name, value, time, step) for (name, step), value in values.items()]
