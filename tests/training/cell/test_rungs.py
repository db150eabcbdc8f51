"""A training that pauses saves its state and a score, and ends bitwise as one that has never paused."""

from __future__ import annotations

import pytest
import torch

from adapad_ray.storage import CHECKPOINT
from adapad_ray.testing import COST_PER_RANK, MethodCase
from adapad_ray.testing.cases import finished
from adapad_ray.training.cell import CellRequest, run_cell, rungs
from adapad_ray.training.cell.rungs import load_rungs
from adapad_ray.training.cell.validation import Validator
from adapad_ray.training.checkpoint import Checkpoint, CheckpointPolicy

RANK_2 = 2 * COST_PER_RANK
CASES = [
    MethodCase("lora", RANK_2, {"dropout": 0.1}),
    MethodCase("adapad", RANK_2, {"initial_rank": 0, "local_steps": 2}),
    MethodCase("adalora", RANK_2),
]


def request(case, folder, pause_at=None, checkpoints=None) -> CellRequest:
    policy = checkpoints or CheckpointPolicy()
    return CellRequest("cell", case.identity(), folder, "tiny", pause_at=pause_at, checkpoints=policy)


def kill_at(step):
    """A report of progress that ends the cell at `step`."""

    def report(progress):
        if progress["step"] == step:
            raise Killed

    return report


def assert_as_without_a_pause(case, result):
    expected, _ = finished(case)
    assert (result.train_loss, result.points, result.growth) == (expected.train_loss, expected.points, expected.growth)
    assert result.cost.steps == expected.cost.steps and result.cost.lane_passes == expected.cost.lane_passes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.method)
def test_a_cell_that_pauses_twice_ends_bitwise_as_without(case, tmp_path):
    for step in (4, 10):
        assert run_cell(request(case, tmp_path, step), case.workspace()) is None
        assert Checkpoint.load(tmp_path / CHECKPOINT).meta["step"] == step
    assert_as_without_a_pause(case, run_cell(request(case, tmp_path), case.workspace()))
    first, second = load_rungs(tmp_path)
    assert (first.step, second.step) == (4, 10)
    assert first.score == -first.loss != second.score
    assert first.seconds > 0 and second.seconds > 0


def test_the_score_is_that_of_the_tune_stage(tmp_path):
    """The score at the last step would be that of the result."""
    case = CASES[0]
    trainer = case.trainer()
    trainer.start()
    trainer.run()
    rung = Validator(request(case, tmp_path), case.workspace(), trainer.method).rung(trainer.step, 1.0)
    assert rung.score == pytest.approx(finished(case)[0].tuning_score)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.method)
def test_the_score_is_that_of_the_mean_weights_of_the_last_half(case, tmp_path):
    """Also after a kill within those steps; averaged here in fp64, from the weights after every step."""
    with pytest.raises(Killed):
        often = CheckpointPolicy(rounds=1)
        run_cell(request(case, tmp_path, 8, often), case.workspace(), on_progress=kill_at(6))
    assert Checkpoint.load(tmp_path / CHECKPOINT).meta["step"] == 6
    assert run_cell(request(case, tmp_path, 8), case.workspace()) is None
    trainer, weights = case.trainer(), []
    trainer.start()
    trainer.run(stop_at=4)
    for step in range(5, 9):
        trainer.run(stop_at=step)
        weights.append({n: p.detach().double() for n, p in trainer.adapted.named_parameters().items()})
    means = {n: torch.stack([w[n] for w in weights if n in w]).mean(0) for n in weights[-1]}
    with torch.no_grad():
        for name, parameter in trainer.adapted.named_parameters().items():
            parameter.copy_(means[name])
    trainer.adapted.publish()
    expected = Validator(request(case, tmp_path), case.workspace(), trainer.method).rung(8, 1.0)
    (rung,) = load_rungs(tmp_path)
    assert rung.score == pytest.approx(expected.score, abs=1e-6)


class Killed(Exception):
    pass


def test_a_kill_between_checkpoint_and_score_costs_the_score_alone_and_it_is_measured_once(tmp_path, monkeypatch):
    case, add_rung = CASES[0], rungs.add_rung
    measured = []

    def kill(folder, rung):
        measured.append(rung.step)
        if len(measured) == 1:
            raise Killed
        add_rung(folder, rung)

    monkeypatch.setattr("adapad_ray.training.cell.run.add_rung", kill)
    with pytest.raises(Killed):
        run_cell(request(case, tmp_path, 4), case.workspace())
    assert load_rungs(tmp_path) == [] and Checkpoint.load(tmp_path / CHECKPOINT).meta["step"] == 4
    for _ in range(2):
        assert run_cell(request(case, tmp_path, 4), case.workspace()) is None
    assert measured == [4, 4] and [rung.step for rung in load_rungs(tmp_path)] == [4]


def test_a_training_beyond_the_pause_goes_on_to_its_end(tmp_path):
    case = CASES[0]
    run_cell(request(case, tmp_path, 10), case.workspace())
    assert_as_without_a_pause(case, run_cell(request(case, tmp_path, 4), case.workspace()))


def test_a_score_that_is_not_finite_is_none(tmp_path):
    case = CASES[0]
    trainer = case.trainer()
    trainer.start()
    for parameter in trainer.adapted.named_parameters().values():
        torch.nn.init.constant_(parameter, torch.nan)
    rung = Validator(request(case, tmp_path), case.workspace(), trainer.method).rung(3, 1.0)
    assert (rung.score, rung.loss) == (None, None)
