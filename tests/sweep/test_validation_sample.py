"""Half-trained trials are scored on the first rows of the validation split, whatever the type of the task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_tasks import TASKS, spec_of, write_models, write_questions

from adapad_ray.sweep.inputs import load_inputs
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.tasks import rows
from adapad_ray.training.cell import CellRequest, Workspace, run_cell
from adapad_ray.training.cell.rungs import RungScore, load_rungs

ROWS = 8


def paused(spec: Any, folder: Path) -> tuple[RungScore, Workspace]:
    """The score of a cell that pauses after six steps."""
    loaded = load_inputs(spec)
    workspace = Workspace(loaded.recipe.load(), loaded.inputs.data)
    cells = CellFactory(spec, loaded.inputs)
    cell = cells.cell("tune", "lora", cells.budget(spec.budgets[0]), 0, {"learning_rate": 1e-2})
    run_cell(CellRequest(cell.id, cell.identity, folder, spec.model, pause_at=6), workspace)
    (score,) = load_rungs(folder)
    return score, workspace


@pytest.mark.parametrize("task", TASKS)
def test_the_score_is_that_of_a_split_with_these_rows_alone(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, data_dir = write_models(tmp_path), write_questions(tmp_path)
    training = spec_of(task, models, data_dir).training.model_dump()
    cut = spec_of(task, models, data_dir, training={**training, "max_validation_examples": ROWS})
    expected, workspace = paused(cut, tmp_path / "cut")
    assert workspace.data.validation_sample is None
    whole, _ = paused(spec_of(task, models, data_dir), tmp_path / "whole")
    monkeypatch.setattr(rows, "SAMPLE_ROWS", ROWS)
    sampled, workspace = paused(spec_of(task, models, data_dir), tmp_path / "sampled")
    assert sampled.score == pytest.approx(expected.score, abs=1e-6)
    assert sampled.score != pytest.approx(whole.score, abs=1e-6)
    assert workspace.data.splits["validation"].labels.shape[0] > ROWS
