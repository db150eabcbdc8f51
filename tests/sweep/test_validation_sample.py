"""Half-trained trials are scored on the first rows of the validation split, whatever the type of the task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_tasks import TASKS, spec_of

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


WITHOUT_LOSS = ("span", "span 2.0", "generation")


@pytest.mark.parametrize("task", [task for task in TASKS if task not in WITHOUT_LOSS])
def test_the_score_is_that_of_a_split_with_these_rows_alone(
    task: str, models: Any, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = spec_of(task, models, data_dir).training.model_dump()
    cut = spec_of(task, models, data_dir, training={**training, "max_validation_examples": ROWS})
    expected, workspace = paused(cut, tmp_path / "cut")
    assert workspace.data.validation_sample is None
    whole, _ = paused(spec_of(task, models, data_dir), tmp_path / "whole")
    monkeypatch.setattr(rows, "SAMPLE_ROWS", ROWS)
    sampled, workspace = paused(spec_of(task, models, data_dir), tmp_path / "sampled")
    assert sampled.score == pytest.approx(expected.score, abs=1e-6)
    assert sampled.score != pytest.approx(whole.score, abs=1e-6)
    assert len(workspace.data.splits["validation"]) > ROWS
    assert (sampled.rows, len(workspace.data.compared_on)) == (expected.rows, expected.rows)


@pytest.mark.parametrize("task", WITHOUT_LOSS)
def test_trials_without_a_loss_are_scored_on_all_rows(
    task: str, models: Any, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "SAMPLE_ROWS", ROWS)
    score, workspace = paused(spec_of(task, models, data_dir), tmp_path)
    assert workspace.data.compared_on is workspace.data.splits["validation"]
    assert score.loss is None and score.rows == len(workspace.data.splits["validation"]) > ROWS


def test_a_score_on_other_rows_is_measured_again(
    models: Any, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of("regression", models, data_dir)
    before, _ = paused(spec, tmp_path)
    monkeypatch.setattr(rows, "SAMPLE_ROWS", ROWS)
    after, _ = paused(spec, tmp_path)
    assert after.step == before.step and after.rows == ROWS < before.rows and after.loss != before.loss
