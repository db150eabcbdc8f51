"""Helpers for tests of whole sweeps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from adapad_ray.cli import app

COMMAND = [sys.executable, "-c", "from adapad_ray.cli import app; app()"]
"""`adapad` in a process of its own."""
ONE_GROUP = "resources.cpus_per_worker=1.5"
"""For a sweep in a process of its own: one worker group on two CPUs. A second takes ten seconds of CPU to start."""
PASSING = ("start_seconds", "train_seconds", "evaluation_seconds", "peak_memory_bytes", "per_worker", "side_by_side")
"""Fields of a cell's cost that differ between runs."""


def adapad(*arguments: object) -> tuple[int, str]:
    """Runs the command in this process; its exit code and what it printed."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def launch(spec: Path, folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Starts `adapad sweep` in `folder`, in its own process group."""
    folder.mkdir(exist_ok=True)
    command = [*COMMAND, "sweep", str(spec), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def lasting(folder: Path) -> dict[str, dict[str, Any]]:
    """The records in a sweep's folder without times and memory, by cell."""
    records = {}
    for path in (folder / "cells").glob("*/result.json"):
        result = json.loads(path.read_text())
        for name in PASSING:
            result["cost"].pop(name)
        records[path.parent.name] = result
    return records


def assert_logged_once(uri: str, name: str, cells: set[str]) -> None:
    """Checks that every cell has one run in the experiment, and that all runs are finished."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert sorted(run.data.tags["adapad.cell"] for run in runs if "adapad.cell" in run.data.tags) == sorted(cells)
    assert {run.info.status for run in runs} == {"FINISHED"}
