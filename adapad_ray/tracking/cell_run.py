"""Logs a cell as a run: start and losses while it trains, then metrics, series and, if asked, the adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from adapad_ray.results import CellIdentity, CellResult
from adapad_ray.tracking.names import CELL, mlflow_key
from adapad_ray.tracking.runs import SweepRuns
from adapad_ray.tracking.series import Series, final_scores, run_name, series_of_progress, series_of_training
from adapad_ray.training.component_errors import COMPONENT_ERRORS
from adapad_ray.training.record import RoundStats, lane_name
from adapad_ray.training.round_log import load_rounds

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

VALUE_LENGTH = 500
"""Longest value of a parameter or tag; the complete record is an artifact."""
VALUES_PER_SERIES = 250
"""Most values of a series over rounds, about as many as a chart can show."""


def log_progress(runs: SweepRuns, cell_id: str, identity: CellIdentity, progress: Mapping[str, Any]) -> None:
    """Starts the run of a cell, or resumes it, and logs the loss of its last step and the validations so far.

    A cell that trains again from an earlier step logs no step twice.

    Args:
        progress: as a worker reports it (`training.record.OnProgress`).
    """
    run = runs.cells.get(cell_id)
    if run is None:
        run = _create(runs, cell_id, identity)
        runs.log(run.info.run_id, [], _params(identity))
    elif run.info.status == "FINISHED":
        return
    elif run.info.status != "RUNNING":
        runs.resume(run)
    _log_series(runs, run, series_of_progress(progress))


def _log_series(runs: SweepRuns, run: Run, series: Series) -> None:
    for name, values in series.items():
        runs.log_once(run, mlflow_key(name), values)


def log_cell(runs: SweepRuns, result: CellResult, folder: Path, *, adapter: bool = False) -> None:
    """Logs the finished cell in `folder` unless its run is finished; a run that was logged in part is completed.

    All values have the run's start as timestamp, so MLflow does not store a value twice that is logged again.

    Args:
        adapter: whether MLflow gets a copy of the adapter.
    """
    run = runs.cells.get(result.id)
    if run is not None and run.info.status == "FINISHED":
        return
    if run is None:
        run = _create(runs, result.id, result.identity)
    run_id, time = run.info.run_id, run.info.start_time
    metrics = [
        *_final_metrics(result, time),
        *_growth_metrics(result, time),
        *_prefix_metrics(result, time),
        *_round_metrics(load_rounds(folder), time),
        *_component_metrics(folder / COMPONENT_ERRORS, time),
    ]
    params = _params(result.identity) | {"metric": _shortened(result.metric)}
    if result.identity.budget is None:
        params["budget"] = str(result.final.parameters)
    versions = {mlflow_key(f"version.{name}"): _shortened(version) for name, version in result.versions.items()}
    runs.log(run_id, metrics, params, versions)
    _log_series(runs, run, series_of_training(result, folder))
    runs.client.log_dict(run_id, result.model_dump(mode="json"), "result.json")
    if adapter and result.final.adapter is not None and (folder / result.final.adapter).is_dir():
        runs.client.log_artifacts(run_id, str(folder / result.final.adapter), "adapter")
    runs.finish(run)


def _create(runs: SweepRuns, cell_id: str, identity: CellIdentity) -> Run:
    tags = {CELL: cell_id, "stage": identity.stage, "label": identity.label, "method": identity.method}
    run = runs.create(run_name(identity), tags)
    runs.cells[cell_id] = run
    return run


def _final_metrics(result: CellResult, time: int) -> list[Metric]:
    """Values at the end of the training, at its last optimizer step."""
    from mlflow.entities import Metric

    final, cost = result.final, result.cost
    values: dict[str, float] = {
        **final_scores(result),
        **{f"rank/{module}": float(rank) for module, rank in final.ranks.items()},
        "parameters": final.parameters,
        "head_parameters": final.head_parameters,
        "budget_remainder": result.budget_remainder,
        "tokens_per_second": cost.tokens / cost.train_seconds if cost.train_seconds > 0 else 0.0,
        **cost.model_dump(exclude={"per_worker"}),
    }
    for worker in cost.per_worker:
        values |= {f"worker-{worker.rank}/{k}": v for k, v in worker.model_dump(exclude={"rank"}).items()}
    return [Metric(mlflow_key(name), float(value), time, cost.steps) for name, value in values.items()]


def _growth_metrics(result: CellResult, time: int) -> list[Metric]:
    """Growth over optimizer steps."""
    from mlflow.entities import Metric

    metrics = [
        Metric(mlflow_key(f"rank/{event.module}"), float(event.rank), time, event.step)
        for event in result.growth
        if event.step < result.cost.steps
    ]
    spent = {event.step: event.spent for event in result.growth}
    return metrics + [Metric("spent_parameters", float(value), time, step) for step, value in spent.items()]


def _prefix_metrics(result: CellResult, time: int) -> list[Metric]:
    """Metrics of the prefixes; the step is the parameter count."""
    from mlflow.entities import Metric

    return [
        Metric(mlflow_key(f"prefix/{split}/{name}"), value, time, point.parameters)
        for point in result.points
        if point.kind == "prefix"
        for split, scores in (("validation", point.validation), ("test", point.test))
        for name, value in scores.items()
    ]


def _round_metrics(by_worker: Mapping[int, Sequence[RoundStats]], time: int) -> list[Metric]:
    """Statistics of the workers per round, at the optimizer step at which the round ended.

    With more than `VALUES_PER_SERIES` rounds a value is the mean of several rounds, at the step of the last.
    """
    from mlflow.entities import Metric

    rows: dict[int, dict[str, float]] = {}
    for rank, rounds in sorted(by_worker.items()):
        for stats in rounds:
            row = rows.setdefault(stats.step, {"round/tokens_per_second": 0.0})
            for name, by_lane in (("loss", stats.losses), ("deflation_error", stats.movement)):
                row |= {f"{name}/lane-{lane_name(k)}": value for k, value in by_lane.items()}
            row["round/parameters"], row["round/staleness"] = stats.parameters, stats.staleness
            row["round/tokens_per_second"] += stats.tokens / max(stats.seconds, 1e-9)
            for phase in ("compute", "wait", "exchange"):
                row[f"round/{phase}_seconds/worker-{rank}"] = getattr(stats, f"{phase}_seconds")
    if not rows:
        return []
    steps = np.sort(np.array(list(rows)))
    group = np.arange(len(steps)) * min(len(steps), VALUES_PER_SERIES) // len(steps)
    ends = steps[np.append(np.diff(group) > 0, True)]
    means = pd.DataFrame([rows[step] for step in steps]).groupby(group).mean()
    return [
        Metric(mlflow_key(str(name)), float(value), time, int(step))
        for name, column in means.items()
        for step, value in zip(ends, column, strict=True)
        if not np.isnan(value)
    ]


def _component_metrics(path: Path, time: int) -> list[Metric]:
    """Errors of single components at the ends of rounds, for tasks whose true components are known."""
    from mlflow.entities import Metric

    if not path.exists():
        return []
    rows = pd.read_csv(path).to_dict("records")
    return [Metric(f"component_error/{row['component']}", row["error"], time, row["step"]) for row in rows]


def _params(identity: CellIdentity) -> dict[str, str]:
    """What is known before the training; settings without a value are left out."""
    settings = {
        **identity.model_dump(exclude={"config", "training", "target_modules"}),
        **_flattened("config", identity.acting_config),
        **_flattened("training", identity.training),
        "adapted_modules": len(identity.target_modules),
    }
    return {mlflow_key(name): _shortened(value) for name, value in settings.items() if value is not None}


def _flattened(prefix: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings as `prefix.key.key`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flattened(f"{prefix}.{name}", value) if isinstance(value, dict) else {f"{prefix}.{name}": value}
    return flat


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= VALUE_LENGTH else text[: VALUE_LENGTH - 1] + "…"
