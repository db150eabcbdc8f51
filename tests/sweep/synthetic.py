"""An executor without Ray that finishes every cell at once, and an observer that records what it is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapad_ray.distributed import JobError, JobOutcome, JobProgress
from adapad_ray.errors import BadRequestError
from adapad_ray.files import write_text
from adapad_ray.results import CellIdentity, CellResult, Cost, Point
from adapad_ray.search.trial import PAUSED
from adapad_ray.storage import RECORD
from adapad_ray.sweep.executor import Executor
from adapad_ray.sweep.observers import SweepObserver
from adapad_ray.training.cell.rungs import RungScore, add_rung

ONE_EACH = 896
"""Parameters of one component on each of the tiny model's 12 linear layers."""


def synthetic_result(cell_id: str, identity: CellIdentity, score: float = 0.5, passes: int = 1) -> CellResult:
    """A record with this validation metric and this number of passes per step."""
    parameters = identity.budget or 1
    metrics = {"accuracy": score}
    point = Point(kind="final", parameters=parameters, head_parameters=1, ranks={}, validation=metrics, test=metrics)
    cost = Cost(
        start_seconds=0, train_seconds=0, evaluation_seconds=0, train_flops=0, steps=10, lane_passes=10 * passes,
        tokens=0, peak_parameters=0, peak_memory_bytes=0,
    )  # fmt: skip
    return CellResult(
        id=cell_id, identity=identity, metric="accuracy", points=(point,), train_loss=(), cost=cost, versions={}
    )


VALIDATION_ROWS = 39
"""Of `reviews`, from which they are carved."""


class SyntheticExecutor(Executor):
    """Computes cells in this process, one after another, by writing a record.

    Args:
        score: the validation metric of a cell.
        passes: forward-and-backward passes per step of a cell.
        error: why a cell fails; None if it does not. It may raise, which ends the launch.
    """

    groups = 2

    def __init__(
        self,
        score: Callable[[CellIdentity], float] = lambda identity: 0.5,
        passes: Callable[[CellIdentity], int] = lambda identity: 1,
        error: Callable[[CellIdentity], JobError | None] = lambda identity: None,
    ) -> None:
        self._score, self._passes, self._error = score, passes, error
        self.started: dict[str, Any] = {}
        """Jobs of `start_jobs`, which are computed when they are waited for."""
        self.computed: list[CellIdentity] = []
        """Identities of finished cells, in order."""
        self.paused: list[CellIdentity] = []
        """Identities of cells that have paused, in order."""

    @contextmanager
    def open(self, cells: int) -> Iterator[Executor]:
        """As `Sweep` opens an executor."""
        yield self

    def run_jobs(self, jobs, on_event) -> None:
        for cell_id, job in jobs.items():
            self._run(cell_id, job, on_event)

    def start_jobs(self, jobs, on_event) -> None:
        self.started |= jobs

    def run_tune_trials(self, studies, storage, on_event) -> None:
        for study in studies.values():
            while (taken := study.halving.take()) is not None:
                self._train(study, *taken, on_event)

    def _train(self, study, cell_id, rung, on_event) -> None:
        cell = study.cells[cell_id]
        outcome = self._run(cell_id, {**cell.payload, "pause_at": cell.pause_at(rung)}, on_event)
        if outcome.status != "done":
            study.halving.fail(cell_id)
        elif PAUSED in outcome.value:
            study.halving.arrive(cell_id, outcome.value["score"])
        else:
            study.halving.finish(cell_id)

    def run_search_trials(self, studies, cells, concurrency, on_event) -> None:
        for label, study in studies.items():
            while (trial := study.take()) is not None:
                try:
                    cell_id, job = cells.job(label, trial.point)
                except BadRequestError as error:
                    study.fail(trial.number, str(error))
                    cells.impossible(label, trial.number, str(error))
                    continue
                if cells.result(cell_id) is None:
                    self._run(cell_id, job, on_event)
                result = cells.result(cell_id)
                if result is None:
                    study.fail(trial.number, "it failed")
                else:
                    study.complete(trial.number, result.score, result.final.parameters)

    def _run(self, cell_id: str, job: Any, on_event: Callable[[JobProgress | JobOutcome], None]) -> JobOutcome:
        outcome = self._outcome(cell_id, job, on_event)
        on_event(outcome)
        return outcome

    def _outcome(self, cell_id: str, job: Any, on_event: Callable[[JobProgress | JobOutcome], None]) -> JobOutcome:
        identity = CellIdentity.model_validate(job["identity"])
        on_event(JobProgress(cell_id, 0, 1, {"step": 1, "steps": 10}))
        error = self._error(identity)
        if error is not None:
            return JobOutcome(cell_id, "failed", None, error, 1, 0, 0.0)
        score = self._score(identity)
        if (step := job.get("pause_at")) is not None:
            add_rung(Path(job["folder"]), RungScore(step, score, None, 1.0, VALIDATION_ROWS))
            self.paused.append(identity)
            return JobOutcome(cell_id, "done", {PAUSED: step, "score": score}, None, 1, 0, 0.0)
        result = synthetic_result(cell_id, identity, score, self._passes(identity))
        write_text(Path(job["folder"]) / RECORD, result.model_dump_json())
        self.computed.append(identity)
        return JobOutcome(cell_id, "done", {"score": result.score}, None, 1, 0, 0.0)


class Tracker:
    """In place of MLflow."""

    comparison_url = "http://mlflow/compare"

    def __init__(self) -> None:
        self.how_to_look = {"MLflow": "http://mlflow"}
        self.cells: Counter[str] = Counter()
        self.started: set[str] = set()
        self.failed: list[str] = []
        self.stopped: list[str] = []
        self.tags: list[str] = []
        self.ends: list[tuple[str, ...]] = []

    def log_cell(self, result, folder) -> None:
        self.cells[result.id] += 1

    def log_progress(self, cell_id, identity, progress) -> None:
        self.started.add(cell_id)

    def end_cell(self, cell_id, reason, status="FAILED") -> None:
        (self.failed if status == "FAILED" else self.stopped).append(cell_id)

    def tag_stopped(self, words) -> None:
        self.tags.append(words)

    def write_page(self, folder) -> None: ...

    def close(self, *end: str) -> None:
        self.ends.append(end)


class Recorder(SweepObserver):
    """Records the names of the hooks that are called, with their arguments."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    @property
    def hooks(self) -> list[str]:
        """Names of the hooks in the order of their calls."""
        return [name for name, _ in self.calls]

    def arguments(self, hook: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of a hook."""
        return [arguments for name, arguments in self.calls if name == hook]


def _recording(hook: str) -> Callable[..., None]:
    def record(self: Recorder, *arguments: Any) -> None:
        self.calls.append((hook, arguments))

    return record


for _hook in [name for name in vars(SweepObserver) if not name.startswith("_")]:
    setattr(Recorder, _hook, _recording(_hook))
