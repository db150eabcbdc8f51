"""Names of tags and metrics in MLflow."""

from __future__ import annotations

import re

SWEEP = "adapad.sweep"
"""Tag of every run of a sweep."""
CELL = "adapad.cell"
"""Tag of a cell's run: the cell's id."""
REPORT = "adapad.report"
"""Tag of a report's run: the digest of the finished cells."""
REASON = "adapad.reason"
"""Tag of a run that did not finish: why."""
STOPPED = "adapad.stopped_early"
"""Tag of the sweep's run: how many trials were stopped early, of how many."""
SUPERSEDED = "superseded"
"""Tag of a report's run: `true` if another report is newer."""
PARENT = "mlflow.parentRunId"
"""MLflow's own tag that nests a run under another."""

EXPERIMENT_KIND, TRAINING = "mlflow.experimentKind", "custom_model_development"
"""MLflow's own tag of an experiment, and its value for models that are trained."""


def mlflow_key(name: str) -> str:
    """The name with characters and path elements that MLflow rejects replaced by `_`, at most 250 characters long."""
    parts = [re.sub(r"[^\w. -]", "_", part, flags=re.ASCII) for part in name.split("/")]
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)[:250]
