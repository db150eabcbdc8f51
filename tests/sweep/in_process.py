"""An executor without Ray that trains every cell in this process, one after another."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from synthetic import SyntheticExecutor

from adapad_ray.distributed import JobOutcome, JobProgress
from adapad_ray.results import CellIdentity
from adapad_ray.search.trial import PAUSED
from adapad_ray.sweep.executor import Executor
from adapad_ray.sweep.inputs import LoadedInputs
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.training.cell import CellRequest, Workspace, run_cell
from adapad_ray.training.cell.rungs import load_rungs


class InProcess(SyntheticExecutor):
    """Backbone and data go the way that they take to a worker."""

    def __init__(self, loaded: LoadedInputs) -> None:
        super().__init__()
        recipe, data = pickle.loads(pickle.dumps((loaded.recipe, loaded.inputs.data)))
        self._workspace = Workspace(recipe.load(), data)

    def _outcome(self, cell_id: str, job: Any, on_event: Any) -> JobOutcome:
        identity, folder = CellIdentity.model_validate(job["identity"]), Path(job["folder"])
        parent = None if identity.parent is None else folder.parent / identity.parent
        pause_at = job.get("pause_at")
        request = CellRequest(
            cell_id, identity, folder, job["base_model"], parent, validations=job["validations"], pause_at=pause_at
        )
        result = run_cell(request, self._workspace, on_progress=lambda data: on_event(JobProgress(cell_id, 0, 1, data)))
        if result is None:
            rung = load_rungs(folder)[-1]
            assert rung.step == pause_at, "the only worker leads"
            return JobOutcome(cell_id, "done", {PAUSED: rung.step, "score": rung.score}, None, 1, 0, 0.0)
        self.computed.append(identity)
        return JobOutcome(cell_id, "done", {"score": result.score}, None, 1, 0, 0.0)


@contextmanager
def in_process(spec: SweepSpec, loaded: LoadedInputs, cells: int) -> Iterator[Executor]:
    """Stands in for `sweep.executor.ray_executor`."""
    yield InProcess(loaded)
