"""Logs a sweep to MLflow from the driver, each cell and report once.

    experiment                       the sweep's name
    └─ parent run                    tag adapad.sweep
       ├─ child run per cell         tag adapad.cell; it starts and ends with the cell
       └─ report run per digest      tag adapad.report; older ones are tagged superseded

The sweep's folder is the source of truth. A run is looked up by its tags before it is created.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.files import write_text
from adapad_ray.results import CellIdentity, CellResult
from adapad_ray.tracking.cell_run import log_cell, log_progress
from adapad_ray.tracking.delivery import Deliveries
from adapad_ray.tracking.links import PAGE, Links, links_page
from adapad_ray.tracking.names import STOPPED
from adapad_ray.tracking.report_run import LoggedReport, log_report
from adapad_ray.tracking.runs import KILLED, SweepRuns
from adapad_ray.tracking.store import check_store, connect, tracking_uri, unusable, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)


class Tracker:
    """The sweep's runs in MLflow. Create it with `Tracker.open`, in the driver only.

    A store that fails later does not stop the sweep (`Deliveries`). What it misses until the end, the next launch logs.

    Attributes:
        log_adapters: whether MLflow gets copies of the adapters; the sweep's folder has them anyway.
        loss_seconds: least time between two losses of a running cell.
    """

    log_adapters = False
    loss_seconds = 2.0

    def __init__(self, client: MlflowClient, uri: str, experiment_id: str, sweep_id: str) -> None:
        self.uri, self.experiment_id = uri, experiment_id
        self.runs = SweepRuns(client, experiment_id, sweep_id)
        self.deliveries = Deliveries(without_password(uri), self.runs.refresh)
        self._progress_logged: dict[str, float] = {}
        """Cell id → when its progress was last logged, in seconds of the monotonic clock."""
        self._next_progress = 0.0
        """Until then, progress has taken its share of the driver's time."""
        self._report: LoggedReport | None = None
        """The report that this launch logged."""

    @classmethod
    def open(cls, uri: str, experiment: str, sweep_id: str) -> Tracker:
        """Connects to the store, creates what is missing, and ends the runs that a killed driver left RUNNING.

        Raises:
            BadRequestError: the store cannot be reached or used, or the sweep id has characters that tags cannot hold.
        """
        if not re.fullmatch(r"[\w. -]+", sweep_id):
            raise BadRequestError(f"sweep id {sweep_id!r} may contain only letters, digits, spaces and _-.")
        check_store(uri, experiment)
        uri = tracking_uri(uri)
        client, experiment_id = connect(uri, experiment)
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return cls(client, uri, experiment_id, sweep_id)
        except (MlflowException, SQLAlchemyError) as error:
            raise unusable(uri, error) from error

    def log_progress(self, cell_id: str, identity: CellIdentity, progress: Mapping[str, Any]) -> bool:
        """Starts or resumes the run of a cell, and logs the loss and the validations that a worker has reported.

        After the first call for a cell, further ones are skipped that follow sooner than `loss_seconds`, or that would
        take more than a tenth of the driver's time: with many cells or a slow store. False if it is skipped, or dropped
        because the store is down.
        """
        now = monotonic()
        last = self._progress_logged.get(cell_id)
        if last is not None and (now - last < self.loss_seconds or now < self._next_progress):
            return False
        self._progress_logged[cell_id] = now
        logged = self.deliveries.send_unless_down(lambda: log_progress(self.runs, cell_id, identity, progress))
        self._next_progress = monotonic() + 9 * (monotonic() - now)
        return logged

    def end_cell(self, cell_id: str, reason: str, status: str = "FAILED") -> None:
        """Ends the run of a cell without a result."""
        self.deliveries.send(lambda: self.runs.end_cell(cell_id, status, reason))

    def log_cell(self, result: CellResult, cell_folder: Path | str) -> bool:
        """Logs a finished cell as a child run, once; False if it waits for the store.

        Raises:
            BadRequestError: the record names an adapter outside of the cell's folder.
        """
        folder = Path(cell_folder)
        adapter = result.final.adapter
        if adapter is not None and not (folder / adapter).resolve().is_relative_to(folder.resolve()):
            raise BadRequestError(f"cell {result.id} names an adapter outside of its folder: {adapter}")
        return self.deliveries.send(lambda: log_cell(self.runs, result, folder, adapter=self.log_adapters))

    def log_report(self, table: pd.DataFrame, files: Iterable[Path | str], digest: str) -> bool:
        """Logs a report, once per digest of its cells, and marks other reports as superseded.

        `table` is that of `report.curves.Curves.table`. The final models of each label become the metric
        `curve/<label>`, prefixes `curve/<label>/prefixes`; the step is the parameter count. False if it waits for the
        store.
        """
        paths = [Path(file) for file in files]

        def write() -> None:
            self._report = log_report(self.runs, table, paths, digest)

        return self.deliveries.send(write)

    def tag_stopped(self, words: str) -> None:
        """Tags the parent run with how many trials were stopped early."""
        self.deliveries.send(lambda: self.runs.client.set_tag(self.runs.parent_id, STOPPED, words))

    def close(self, status: str = "FINISHED", reason: str | None = None) -> None:
        """Logs what waits, ends the runs of cells that did not, and the parent run as FINISHED, FAILED or KILLED."""

        def end() -> None:
            for cell_id in list(self.runs.cells):
                self.runs.end_cell(cell_id, "KILLED", reason or KILLED)
            self.runs.end(self.runs.parent_id, status, reason)

        if not self.deliveries.send(end, now=True):
            logger.warning(
                "MLflow's store %s is still unavailable: launch the sweep again to log what is missing",
                without_password(self.uri),
            )

    @property
    def comparison_url(self) -> str:
        """The comparison of the runs of the curve."""
        runs = self.runs.cells.values()
        return self._links.comparison([r.info.run_id for r in runs if r.data.tags.get("stage") == "curve"])

    @property
    def curve_url(self) -> str | None:
        """The chart of the curve against parameters; None without a report that has one."""
        if self._report is None or not self._report.curves:
            return None
        return self._links.curve(self._report)

    @property
    def how_to_look(self) -> dict[str, str]:
        """For the terminal: the command that serves a database, and the address of the experiment."""
        command = self._links.serve_command_here
        return ({} if command is None else {"MLflow": command}) | {"MLflow runs": self._links.experiment}

    def write_page(self, folder: Path) -> None:
        """Writes `PAGE`, a page of links that are too long for a terminal, into the sweep's folder."""
        links = {"All runs": self._links.experiment, "The runs of the curve, compared": self.comparison_url}
        if self.curve_url is not None:
            links = {"The curve, against parameters": self.curve_url} | links
        write_text(folder / PAGE, links_page(links, self._links.serve_command))

    @property
    def _links(self) -> Links:
        return Links(self.uri, self.experiment_id)
