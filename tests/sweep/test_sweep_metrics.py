"""What a launch exports to Prometheus: every known cell in one state, finished points, failures, silence, restarts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapad_ray.distributed import JobError, JobOutcome, JobProgress
from adapad_ray.distributed.ray_metrics import (
    CELLS,
    FAILURES,
    PARAMETERS,
    RESTARTS,
    SCORE,
    SILENCE,
    SWEEP_METRICS,
)
from adapad_ray.results import CellResult
from adapad_ray.sweep.observers import SweepState
from adapad_ray.sweep.planning.cells import Cell
from adapad_ray.sweep.sweep_metrics import SweepMetrics
from tests.report.factory import SweepFactory


class QuietMetrics(SweepMetrics):
    """Exports nothing."""

    def report(self) -> None:
        pass


class Launch:
    """The state of a launch, and its metrics."""

    def __init__(self, folder: Path) -> None:
        make = SweepFactory(folder, items=20)
        made = [make.cell("lora", 1152 * k, 0, 0.8) for k in (36, 72, 108)]
        made += [make.cell("para", 1152 * 36, 0, 0.8, stage="parent"), make.cell("adapad", 1152 * 36, 0, 0.9)]
        self.cells = {cell.id: cell for cell in (Cell(result.identity) for result in made)}
        self.known: dict[str, CellResult] = {
            id: result.model_copy(update={"id": id}) for id, result in zip(self.cells, made, strict=True)
        }
        state = SweepState(cells=dict(self.cells))
        self.results, self.reasons = state.results, state.failures
        self.metrics = QuietMetrics("watched")
        self.metrics.computing_started(state, expected=len(made), groups=2)

    def observe(self, event: JobProgress | JobOutcome) -> None:
        """Passes an event of the pool to the metrics, as the launch does."""
        cell = self.cells[event.job_id]
        if isinstance(event, JobProgress):
            self.metrics.cell_progress(cell, event)
        elif event.status == "done":
            self.metrics.cell_finished(cell, self.known[cell.id], event.attempts)
        else:
            self.metrics.cell_failed(cell, "", event.attempts)

    def values(self, metric) -> dict[tuple[str, ...], float]:
        return {tuple(tags.values()): value for found, tags, value in self.metrics.values() if found is metric}


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    launch = Launch(tmp_path)
    yield launch
    launch.metrics.computing_ended()


def test_every_cell_is_in_one_state(launch):
    first, second, third, *_ = launch.known
    assert launch.values(CELLS) == {("done",): 0, ("failed",): 0, ("running",): 0, ("waiting",): 5}
    launch.observe(JobProgress(first, 0, 1, {"step": 1, "steps": 9}))
    launch.observe(JobProgress(second, 1, 1, {"step": 1, "steps": 9}))
    launch.results[second] = launch.known[second]
    launch.observe(JobOutcome(second, "done", None, None, 1, 1, 2.0))
    launch.reasons[third] = "DivergedError: lane 1, step 3: the loss is nan"
    launch.observe(JobOutcome(third, "failed", None, JobError("DivergedError", "…"), 1, 0, 2.0))
    assert launch.values(CELLS) == {("done",): 1, ("failed",): 1, ("running",): 1, ("waiting",): 2}
    assert launch.values(FAILURES) == {("lora", "DivergedError"): 1}


def test_finished_points_are_told_and_parents_are_none(launch):
    launch.results.update(launch.known)
    lora = next(iter(launch.known.values()))
    assert launch.values(PARAMETERS)[lora.id, "lora", "curve"] == 1152 * 36
    assert launch.values(SCORE)[lora.id, "lora", "curve", "accuracy"] == lora.score
    assert len(launch.values(SCORE)) == len(launch.values(PARAMETERS)) == 4


def test_silence_is_that_of_running_cells_and_restarts_add_up(launch):
    first, second, *_ = launch.known
    launch.observe(JobProgress(first, 0, 1, {}))
    time.sleep(0.05)
    launch.observe(JobProgress(second, 1, 3, {}))
    silence = launch.values(SILENCE)
    assert silence[first, "lora"] >= 0.05 > silence[second, "lora"] >= 0
    assert launch.values(RESTARTS) == {(): 2}
    launch.observe(JobOutcome(second, "lost", None, JobError("WorkerDied", "…"), 4, 1, 2.0))
    assert launch.values(SILENCE).keys() == {(first, "lora")}
    assert launch.values(RESTARTS) == {(): 3}


def test_tags_are_those_that_the_metric_declares(launch):
    launch.results.update(launch.known)
    first, *_ = launch.known
    launch.observe(JobProgress(first, 0, 1, {}))
    del launch.results[first]
    launch.reasons[list(launch.known)[1]] = "X: y"
    told = {metric: tags.keys() for metric, tags, _ in launch.metrics.values()}
    assert told.keys() == set(SWEEP_METRICS)
    assert all(tags == set(metric.tags) for metric, tags in told.items())
