"""The runs of one sweep in MLflow: a parent run, one child run per cell, and one per report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from adapad_ray.tracking.names import CELL, PARENT, REASON, REPORT, SWEEP

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

KILLED = "the driver ended before this run did"
"""Reason of a run that an earlier launch left in state RUNNING."""
LONGEST_REASON = 500
"""Characters."""
METRICS_PER_CALL, PARAMS_PER_CALL, TAGS_PER_CALL = 1000, 100, 100
"""Limits of one `log_batch` call."""


class SweepRuns:
    """Finds, creates and ends the runs of a sweep.

    Creating it starts or resumes the parent run and ends the runs that a killed driver left in state RUNNING.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, sweep_id: str) -> None:
        self.client, self.experiment_id, self.sweep_id = client, experiment_id, sweep_id
        self.cells: dict[str, Run] = {}
        """Runs of cells by cell id."""
        self.reports: dict[str, Run] = {}
        """Runs of reports by digest."""
        self._logged_steps: dict[tuple[str, str], set[int]] = {}
        """(Run id, metric) → steps at which the run has it, for metrics that are logged during training."""
        self._created: set[str] = set()
        """Ids of the runs that this launch has created."""
        runs = self.refresh()
        for run in runs:
            if run.info.status == "RUNNING" and PARENT in run.data.tags:
                self.end(run.info.run_id, "KILLED", KILLED)
                run.data.tags[REASON] = KILLED
                run.info._status = "KILLED"
        self.parent_id = self._start_parent([run for run in runs if PARENT not in run.data.tags])

    def refresh(self) -> list[Run]:
        """Reads the sweep's runs from the store."""
        runs = list(self._search(f"tags.`{SWEEP}` = '{self.sweep_id}'"))
        self.cells = {run.data.tags[CELL]: run for run in runs if CELL in run.data.tags}
        self.reports = {run.data.tags[REPORT]: run for run in runs if REPORT in run.data.tags}
        return runs

    def create(self, name: str, tags: Mapping[str, str]) -> Run:
        """Creates a child run."""
        tags = {SWEEP: self.sweep_id, PARENT: self.parent_id, **tags}
        run = self.client.create_run(self.experiment_id, run_name=name, tags=tags)
        self._created.add(run.info.run_id)
        return run

    def resume(self, run: Run) -> None:
        """Lets a run that has ended run again, and removes the reason of its end."""
        if REASON in run.data.tags:
            self.client.delete_tag(run.info.run_id, REASON)
            del run.data.tags[REASON]
        self.client.update_run(run.info.run_id, status="RUNNING")
        run.info._status = "RUNNING"

    def log_once(self, run: Run, name: str, values: Mapping[int, float]) -> None:
        """Logs a metric that grows during training: step → value, without the steps that the run has already.

        All values have the run's start as timestamp. The store is asked about runs of earlier launches.
        """
        from mlflow.entities import Metric

        id = run.info.run_id
        if (id, name) not in self._logged_steps:
            earlier = [] if id in self._created else self.client.get_metric_history(id, name)
            self._logged_steps[id, name] = {value.step for value in earlier}
        logged = self._logged_steps[id, name]
        self.log(id, [Metric(name, value, run.info.start_time, at) for at, value in values.items() if at not in logged])
        logged.update(values)

    def log(
        self,
        run_id: str,
        metrics: Sequence[Metric],
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Logs metrics, parameters and tags in batches of the allowed size."""
        from mlflow.entities import Param, RunTag

        named = [Param(key, value) for key, value in (params or {}).items()]
        tagged = [RunTag(key, value) for key, value in (tags or {}).items()]
        while metrics or named or tagged:
            room = METRICS_PER_CALL - min(len(named), PARAMS_PER_CALL) - min(len(tagged), TAGS_PER_CALL)
            self.client.log_batch(run_id, metrics[:room], named[:PARAMS_PER_CALL], tagged[:TAGS_PER_CALL])
            metrics, named, tagged = metrics[room:], named[PARAMS_PER_CALL:], tagged[TAGS_PER_CALL:]

    def finish(self, run: Run) -> None:
        """Ends a run as FINISHED and removes the reason of an earlier end."""
        if REASON in run.data.tags:
            self.client.delete_tag(run.info.run_id, REASON)
        self.client.set_terminated(run.info.run_id, "FINISHED")
        run.info._status = "FINISHED"

    def end(self, run_id: str, status: str, reason: str | None = None) -> None:
        """Ends a run with a status of MLflow and the reason for it."""
        if reason is not None:
            self.client.set_tag(run_id, REASON, reason[:LONGEST_REASON])
        self.client.set_terminated(run_id, status)

    def end_cell(self, cell_id: str, status: str, reason: str) -> None:
        """Ends the run of a cell, if it is running."""
        run = self.cells.get(cell_id)
        if run is not None and run.info.status == "RUNNING":
            self.end(run.info.run_id, status, reason)
            run.data.tags[REASON] = reason
            run.info._status = status

    def _start_parent(self, parents: Sequence[Run]) -> str:
        """Resumes the oldest of the sweep's parent runs, or creates one."""
        if not parents:
            tags = {SWEEP: self.sweep_id}
            return str(self.client.create_run(self.experiment_id, run_name=self.sweep_id, tags=tags).info.run_id)
        first, *others = sorted(parents, key=lambda run: run.info.start_time)
        for other in others:
            if other.info.status == "RUNNING":
                self.end(other.info.run_id, "KILLED", KILLED)
        if REASON in first.data.tags:
            self.client.delete_tag(first.info.run_id, REASON)
        self.client.update_run(first.info.run_id, status="RUNNING")
        return str(first.info.run_id)

    def _search(self, condition: str) -> Iterator[Run]:
        token = None
        while True:
            page = self.client.search_runs([self.experiment_id], condition, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return
