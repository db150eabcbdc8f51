"""MLflow as a view of a sweep: one writer, in the driver, and nothing logged twice.

    experiment                       the sweep's name
    └─ parent run                    tag adapad.sweep
       ├─ child run per cell         tag adapad.cell
       └─ report run per digest      tag adapad.report; older ones are tagged superseded

The record of truth is the sweep's folder. Runs are found by their tags before any is created, and every value carries
its run's start as timestamp, so that logging a half-written run again adds what is missing and repeats nothing.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

import numpy as np
import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.files import atomic_path
from adapad_ray.results import CellResult
from adapad_ray.training.component_errors import COMPONENT_ERRORS
from adapad_ray.training.record import RoundStats, lane_name
from adapad_ray.training.round_log import load_rounds

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

logger = logging.getLogger(__name__)

SWEEP, CELL, REPORT, REASON, SUPERSEDED = (
    "adapad.sweep",
    "adapad.cell",
    "adapad.report",
    "adapad.reason",
    "superseded",
)
PARENT = "mlflow.parentRunId"
KILLED = "the driver ended before this run did"
METRICS_PER_CALL, PARAMS_PER_CALL, TAGS_PER_CALL = 1000, 100, 100
VALUE_LENGTH = 500
"""Longest parameter or tag value logged; the whole record is an artifact."""
RUNS_IN_LINK = 100
POINTS_PER_SERIES = 250
"""Most points of a series of rounds: as many as a chart can show."""
LONGEST_LINK = 2000
"""Characters of an address that is printed to a terminal."""


def tracking_uri(configured: str) -> str:
    """The tracking store: `MLFLOW_TRACKING_URI` wins over the sweep's file; a relative SQLite path becomes absolute."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or configured
    path = _sqlite_path(uri)
    return uri if path is None else f"sqlite:///{path}"


class Tracker:
    """The sweep's runs in MLflow; make one with `Tracker.open`, in the driver only.

    If the store fails later on, one warning is logged and the sweep goes on. What there is to log waits in order, and
    is tried again at most every `retry_seconds` and when the sweep ends; what cannot be delivered then, the next launch
    logs.
    """

    def __init__(self, client: MlflowClient, uri: str, experiment_id: str, sweep_id: str) -> None:
        self.uri, self.experiment_id, self.sweep_id = uri, experiment_id, sweep_id
        self.retry_seconds = 30.0
        self._client = client
        self._report_id: str = ""
        self._curves: list[str] = []
        """The metrics of this launch's report that are curves."""
        self._waiting: deque[Callable[[], None]] = deque()
        self._away_since: float | None = None
        """When the store last failed, in seconds of the monotonic clock; None while it answers."""
        runs = self._read_runs()
        parents = [run for run in runs if PARENT not in run.data.tags]
        for run in runs:
            if run.info.status == "RUNNING" and PARENT in run.data.tags:
                self._end(run.info.run_id, "KILLED", KILLED)
        self.parent_id = self._parent(parents)

    @classmethod
    def open(cls, uri: str, experiment: str, sweep_id: str) -> Tracker:
        """Connects, creates what is missing and ends what a killed driver left running.

        Raises `BadRequestError` if the store cannot be reached or used.
        """
        _check_sweep_id(sweep_id)
        uri = tracking_uri(uri)
        _prepare(uri)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            _create_database(uri)
            client = MlflowClient(tracking_uri=uri)
            return cls(client, uri, _experiment(client, uri, experiment), sweep_id)
        except (MlflowException, SQLAlchemyError) as error:
            raise BadRequestError(
                f"MLflow's store {_without_password(uri)} cannot be used ({_first_line(error)}): start the server, "
                "correct `tracking` or MLFLOW_TRACKING_URI, or use sqlite:///mlflow.db"
            ) from error

    def log_cell(self, result: CellResult, cell_folder: Path | str) -> bool:
        """Logs a finished cell as a child run, once; False if it has to wait for the store.

        Raises `BadRequestError` if the record names an adapter outside the cell's folder.
        """
        folder = Path(cell_folder)
        adapter = None if result.final.adapter is None else folder / result.final.adapter
        if adapter is not None and not adapter.resolve().is_relative_to(folder.resolve()):
            raise BadRequestError(f"cell {result.id} names an adapter outside its folder: {result.final.adapter}")
        return self._send(lambda: self._log_cell(result, folder, adapter))

    def log_report(self, table: pd.DataFrame, files: Iterable[Path | str], digest: str) -> bool:
        """Logs the curve of these finished cells, once per digest, and marks other reports superseded.

        `table` is that of `report.curves.curve_table`. Each label's final models become the metric `curve/<label>`
        whose step is the parameter count (`curve/<label>/prefixes` for cut models). False if it has to wait.
        """
        return self._send(lambda: self._log_report(table, [Path(file) for file in files], digest))

    def close(self, status: str = "FINISHED", reason: str | None = None) -> None:
        """Delivers what waits, and ends the parent run: FINISHED, FAILED or KILLED."""
        if not self._send(lambda: self._end(self.parent_id, status, reason), now=True):
            logger.warning(
                "MLflow's store %s is still away: launch the sweep again to log what is missing",
                _without_password(self.uri),
            )

    @property
    def curve_url(self) -> str | None:
        """The curves of the report in one chart, whose steps are parameters; None until this launch has logged it.

        Of a database, once `how_to_look` serves it.
        """
        if not self._curves:
            return None
        about = {"runs": [self._report_id], "metric": self._curves[0], "experiments": [self.experiment_id]}
        view: dict[str, Any] = {"plot_layout": {}, "deselected_curves": [], "last_linear_y_axis_range": []}
        content = {**about, "plot_metric_keys": self._curves, **view}
        query = "&".join(f"{name}={quote(json.dumps(value))}" for name, value in content.items())
        return f"{self._server}/#/metric?{query}&x_axis=step&y_axis_scale=linear&line_smoothness=1&show_point=true"

    @property
    def comparison_url(self) -> str:
        """The comparison of the curve's runs; of a database, once `how_to_look` serves it."""
        cells = [run.info.run_id for run in self._children.values() if run.data.tags.get("stage") == "curve"]
        if len(cells) < 2:
            return self._experiment_url
        runs, experiments = json.dumps(cells[:RUNS_IN_LINK]), json.dumps([self.experiment_id])
        return f"{self._server}/#/compare-runs?runs={quote(runs)}&experiments={quote(experiments)}"

    @property
    def _experiment_url(self) -> str:
        return f"{self._server}/#/experiments/{self.experiment_id}"

    @property
    def how_to_look(self) -> dict[str, str]:
        """For the terminal: the command that serves a database, and the addresses of the curve and the comparison."""
        serve = f"mlflow ui --backend-store-uri {_without_password(self.uri)}"
        links = {} if _is_server(self.uri) else {"MLflow": serve}
        if self.curve_url is not None:
            links["its curve"] = self.curve_url
        if len(self.comparison_url) > LONGEST_LINK:  # the report has it
            return links | {"its runs": self._experiment_url}
        return links | {"its comparison": self.comparison_url}

    @property
    def _server(self) -> str:
        return _without_password(self.uri).rstrip("/") if _is_server(self.uri) else "http://127.0.0.1:5000"

    def _send(self, write: Callable[[], None], *, now: bool = False) -> bool:
        """Writes what waits and then `write`, unless the store has failed a moment ago; whether all was delivered."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        self._waiting.append(write)
        away = self._away_since is not None
        if self._away_since is not None and not now and monotonic() - self._away_since < self.retry_seconds:
            return False
        try:
            with _undisturbed():
                if away:
                    self._read_runs()  # what failed may have arrived all the same
                while self._waiting:
                    self._waiting[0]()
                    self._waiting.popleft()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            if not away:
                logger.warning(
                    "MLflow's store %s is away (%s): the sweep goes on, and what there is to log waits",
                    _without_password(self.uri),
                    _first_line(error),
                )
            self._away_since = monotonic()
            return False
        if away:
            logger.warning("MLflow's store %s is back: everything was delivered", _without_password(self.uri))
            self._away_since = None
        return True

    def _read_runs(self) -> list[Run]:
        """The sweep's runs as the store has them."""
        runs = list(self._search(f"tags.`{SWEEP}` = '{self.sweep_id}'"))
        self._children = {run.data.tags[CELL]: run for run in runs if CELL in run.data.tags}
        self._reports = {run.data.tags[REPORT]: run for run in runs if REPORT in run.data.tags}
        return runs

    def _log_cell(self, result: CellResult, folder: Path, adapter: Path | None) -> None:
        run = self._children.get(result.id)
        if run is not None and run.info.status == "FINISHED":
            return
        identity = result.identity
        if run is None:
            budget = "" if identity.budget is None else f" {identity.budget:,}"
            tags = {CELL: result.id, "stage": identity.stage, "label": identity.label, "method": identity.method}
            run = self._create(f"{identity.label}{budget} seed {identity.seed}", tags)
            self._children[result.id] = run
        run_id, time = run.info.run_id, run.info.start_time
        metrics = [*_cell_metrics(result, time), *_round_metrics(load_rounds(folder), time)]
        metrics += _component_metrics(folder / COMPONENT_ERRORS, time)
        self._log(run_id, metrics, _cell_params(result), _version_tags(result))
        self._client.log_dict(run_id, result.model_dump(mode="json"), "result.json")
        if adapter is not None and adapter.is_dir():
            self._client.log_artifacts(run_id, str(adapter), "adapter")
        self._finish(self._children, result.id)

    def _log_report(self, table: pd.DataFrame, files: Sequence[Path], digest: str) -> None:
        run = self._reports.get(digest)
        if run is None:
            run = self._create(f"report {digest[:8]}", {REPORT: digest})
            self._reports[digest] = run
        metrics = _curve_metrics(table, run.info.start_time)
        if run.info.status != "FINISHED":
            self._log(run.info.run_id, metrics)
            for file in files:
                self._client.log_artifact(run.info.run_id, str(file))
            self._finish(self._reports, digest)
        self._report_id, self._curves = run.info.run_id, sorted({metric.key for metric in metrics})
        for other, report in self._reports.items():
            superseded = str(other != digest).lower()
            if report.data.tags.get(SUPERSEDED, "false") != superseded:
                self._client.set_tag(report.info.run_id, SUPERSEDED, superseded)
                report.data.tags[SUPERSEDED] = superseded

    def _create(self, name: str, tags: dict[str, str]) -> Run:
        tags = {SWEEP: self.sweep_id, PARENT: self.parent_id, **tags}
        return self._client.create_run(self.experiment_id, run_name=name, tags=tags)

    def _finish(self, runs: dict[str, Run], key: str) -> None:
        run = runs[key]
        if REASON in run.data.tags:
            self._client.delete_tag(run.info.run_id, REASON)
        self._client.set_terminated(run.info.run_id, "FINISHED")
        run.info._status = "FINISHED"

    def _end(self, run_id: str, status: str, reason: str | None) -> None:
        if reason is not None:
            self._client.set_tag(run_id, REASON, reason)
        self._client.set_terminated(run_id, status)

    def _parent(self, found: Sequence[Run]) -> str:
        """The sweep's parent run, continued if there is one."""
        if not found:
            tags = {SWEEP: self.sweep_id}
            return str(self._client.create_run(self.experiment_id, run_name=self.sweep_id, tags=tags).info.run_id)
        first, *others = sorted(found, key=lambda run: run.info.start_time)
        for other in others:
            if other.info.status == "RUNNING":
                self._end(other.info.run_id, "KILLED", KILLED)
        if REASON in first.data.tags:
            self._client.delete_tag(first.info.run_id, REASON)
        self._client.update_run(first.info.run_id, status="RUNNING")
        return str(first.info.run_id)

    def _search(self, condition: str) -> Iterator[Run]:
        token = None
        while True:
            page = self._client.search_runs([self.experiment_id], condition, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _log(
        self,
        run_id: str,
        metrics: Sequence[Metric],
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Param, RunTag

        named = [Param(key, value) for key, value in (params or {}).items()]
        tagged = [RunTag(key, value) for key, value in (tags or {}).items()]
        while metrics or named or tagged:
            room = METRICS_PER_CALL - min(len(named), PARAMS_PER_CALL) - min(len(tagged), TAGS_PER_CALL)
            self._client.log_batch(run_id, metrics[:room], named[:PARAMS_PER_CALL], tagged[:TAGS_PER_CALL])
            metrics, named, tagged = metrics[room:], named[PARAMS_PER_CALL:], tagged[TAGS_PER_CALL:]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the block's end, as they would spoil a transaction; the second one does not wait."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []

    def wait(number: int, _frame: object) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, wait) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if caught:
            signal.raise_signal(caught[0])


def _prepare(uri: str) -> None:
    """Quiet and bounded: no telemetry, no migration chatter, no minutes of retries; a user's own settings stay."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import mlflow  # noqa: F401  (its import sets the levels that the next lines lower)

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.ERROR)
    path = _sqlite_path(uri)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadRequestError(f"the folder of MLflow's store {path} cannot be made ({error.strerror})") from error


def _create_database(uri: str) -> None:
    """Makes a SQLite store that is not there yet under another name first: it is complete or absent.

    MLflow takes seconds to create its tables, and never uses a database again in which it was killed meanwhile.
    """
    from mlflow import MlflowClient

    path = _sqlite_path(uri.partition("?")[0])  # without options of the driver
    if path is None or path.exists():
        return
    with suppress(OSError), atomic_path(path, overwrite=False) as temporary:  # no links here: MLflow makes it in place
        MlflowClient(tracking_uri=f"sqlite:///{temporary}").search_experiments(max_results=1)


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment's id; of a SQLite store, artifacts go to `mlartifacts` beside the database."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        path = _sqlite_path(uri)
        location = None if path is None else (path.parent / "mlartifacts" / _key(name).replace("/", "_")).as_uri()
        return str(client.create_experiment(name, artifact_location=location))
    if experiment.lifecycle_stage == "deleted":
        raise BadRequestError(
            f"MLflow's experiment {name!r} was deleted: run `mlflow experiments restore --experiment-id "
            f"{experiment.experiment_id}` or give the sweep another name"
        )
    return str(experiment.experiment_id)


def _cell_metrics(result: CellResult, time: int) -> list[Metric]:
    from mlflow.entities import Metric

    final, cost = result.final, result.cost
    values: dict[str, float] = {
        **{f"validation/{name}": value for name, value in final.validation.items()},
        **{f"test/{name}": value for name, value in final.test.items()},
        **{f"rank/{module}": float(rank) for module, rank in final.ranks.items()},
        "parameters": final.parameters,
        "head_parameters": final.head_parameters,
        "budget_remainder": result.budget_remainder,
        "tokens_per_second": cost.tokens / cost.train_seconds if cost.train_seconds > 0 else 0.0,
        **cost.model_dump(exclude={"per_worker"}),
    }
    for worker in cost.per_worker:
        values |= {f"worker-{worker.rank}/{k}": v for k, v in worker.model_dump(exclude={"rank"}).items()}
    metrics = [Metric(_key(name), float(value), time, cost.steps) for name, value in values.items()]
    metrics += [Metric("train_loss", loss, time, step) for step, loss in enumerate(result.train_loss)]
    metrics += [
        Metric(_key(f"rank/{event.module}"), float(event.rank), time, event.step)
        for event in result.growth
        if event.step < cost.steps
    ]
    spent = {event.step: event.spent for event in result.growth}
    metrics += [Metric("spent_parameters", float(value), time, step) for step, value in spent.items()]
    for point in result.points:
        for split, scores in (("validation", point.validation), ("test", point.test)):
            for name, value in scores.items():
                if point.kind == "prefix":
                    metrics.append(Metric(_key(f"prefix/{split}/{name}"), value, time, point.parameters))
    return metrics


def _component_metrics(path: Path, time: int) -> list[Metric]:
    """Errors of single components at the ends of rounds, where the task knows its true components."""
    from mlflow.entities import Metric

    if not path.exists():
        return []
    rows = pd.read_csv(path).to_dict("records")
    return [Metric(f"component_error/{row['component']}", row["error"], time, row["step"]) for row in rows]


def _round_metrics(by_worker: Mapping[int, Sequence[RoundStats]], time: int) -> list[Metric]:
    """What the workers of a cell reported round by round, at the optimizer steps at which the rounds ended.

    Where a cell has more than `POINTS_PER_SERIES` rounds, a point is the mean over several, at the step of the last.
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
    point = np.arange(len(steps)) * min(len(steps), POINTS_PER_SERIES) // len(steps)
    ends = steps[np.append(np.diff(point) > 0, True)]
    means = pd.DataFrame([rows[step] for step in steps]).groupby(point).mean()
    return [
        Metric(_key(str(name)), float(value), time, int(step))
        for name, column in means.items()
        for step, value in zip(ends, column, strict=True)
        if not np.isnan(value)
    ]


def _curve_metrics(table: pd.DataFrame, time: int) -> list[Metric]:
    """Steps are whole parameter counts, each logged once: of two models of one size the better on validation stays."""
    from mlflow.entities import Metric

    values: dict[tuple[str, int], float] = {}
    for row in table.sort_values("validation_mean").to_dict("records"):
        suffix = "/prefixes" if row["kind"] == "prefix" else ""
        values[_key(f"curve/{row['label']}{suffix}"), round(row["parameters"])] = float(row["test_mean"])
    return [Metric(name, value, time, step) for (name, step), value in values.items()]


def _cell_params(result: CellResult) -> dict[str, str]:
    identity = result.identity
    settings = {
        **identity.model_dump(exclude={"config", "training", "target_modules"}),
        **_flat("config", identity.config),
        **_flat("training", identity.training),
        "adapted_modules": len(identity.target_modules),
        "metric": result.metric,
    }
    return {_key(name): _text(value) for name, value in settings.items()}


def _version_tags(result: CellResult) -> dict[str, str]:
    return {_key(f"version.{name}"): _text(version) for name, version in result.versions.items()}


def _flat(prefix: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings as `prefix.key.key`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(f"{prefix}.{name}", value) if isinstance(value, dict) else {f"{prefix}.{name}": value}
    return flat


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= VALUE_LENGTH else text[: VALUE_LENGTH - 1] + "…"


def _key(name: str) -> str:
    """A name that MLflow takes: letters, digits and `_-. /`, a clean path, at most 250 characters."""
    parts = [re.sub(r"[^\w. -]", "_", part, flags=re.ASCII) for part in name.split("/")]
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)[:250]


def _check_sweep_id(sweep_id: str) -> None:
    if not re.fullmatch(r"[\w. -]+", sweep_id):
        raise BadRequestError(f"sweep id {sweep_id!r} may hold letters, digits, spaces and _-. only")


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _sqlite_path(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def _without_password(uri: str) -> str:
    """The address without user and password, for messages and links."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def _first_line(error: BaseException) -> str:
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    line = re.sub(r"//[^/@\s]*@", "//", line)
    return line if len(line) <= 200 else line[:199] + "…"
