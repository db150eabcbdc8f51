"""Validation during training scores what would be deployed, changes nothing, and is measured once."""

from __future__ import annotations

import pytest

from adapad_ray.testing import COST_PER_RANK, MethodCase
from adapad_ray.testing.cases import finished
from adapad_ray.training.cell import CellRequest, run_cell
from adapad_ray.training.cell.validation import LOSS, Validator, load_validations
from adapad_ray.training.checkpoint import CheckpointPolicy

RANK_2 = 2 * COST_PER_RANK
CASES = [
    MethodCase("lora", RANK_2),
    MethodCase("adapad", RANK_2, {"initial_rank": 2, "local_steps": 5}),
    MethodCase("adapad", RANK_2, {"initial_rank": 2, "local_steps": 5, "joint_fraction": 0.5}),
    MethodCase("sequential", RANK_2),
    MethodCase("dylora", RANK_2),
    MethodCase("increlora", RANK_2),
    MethodCase("adalora", RANK_2),
    MethodCase("head_only", None),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.method} {case.config}")
def test_at_the_last_step_the_scores_are_those_of_the_result_and_the_result_is_that_of_any_other_run(
    case, tmp_path, monkeypatch
):
    monkeypatch.setattr(Validator, "_is_due", lambda self, step, steps: step in (5, steps))
    reports = []
    request = CellRequest("cell", case.identity(), tmp_path, "tiny", validations=1)
    result = run_cell(request, case.workspace(), on_progress=reports.append)
    expected, _ = finished(case)
    assert (result.train_loss, result.points, result.growth) == (expected.train_loss, expected.points, expected.growth)
    first, last = load_validations(tmp_path)
    assert first.step == 5 and last.step == result.cost.steps
    scores = {**result.final.validation, LOSS: result.final.validation_loss}
    assert last.scores == pytest.approx(scores) and first.scores != last.scores
    assert reports[-1]["validations"] == [first, last]


class Killed(Exception):
    pass


def test_scores_are_measured_at_equal_shares_and_once_if_the_cell_is_resumed(tmp_path, monkeypatch):
    case, measured = MethodCase("lora", RANK_2), []
    measure = Validator._measure
    monkeypatch.setattr(Validator, "_measure", lambda self, step: measured.append(step) or measure(self, step))
    request = CellRequest(
        "cell", case.identity(), tmp_path, "tiny", checkpoints=CheckpointPolicy(rounds=1), validations=3
    )
    steps = len(finished(case)[0].train_loss)
    shares = [-(-steps * n // 4) for n in (1, 2, 3)]

    def kill(data):
        if data["step"] == shares[1]:
            raise Killed

    with pytest.raises(Killed):
        run_cell(request, case.workspace(), on_progress=kill)
    result = run_cell(request, case.workspace(), on_progress=lambda data: None)
    assert measured == shares and [entry.step for entry in load_validations(tmp_path)] == shares
    assert result.train_loss == finished(case)[0].train_loss
