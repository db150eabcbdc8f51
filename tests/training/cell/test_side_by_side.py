"""Packed cells in one process: each is recorded as if it were alone, whatever happens to the others."""

import json

import numpy as np
import pytest
import torch

from adapad_ray.storage import CHECKPOINT, RECORD
from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_workspace
from adapad_ray.training.cell import CellRequest, PackedCell, run_cell, run_packed_cells
from adapad_ray.training.cell.rungs import load_rungs
from adapad_ray.training.checkpoint import CheckpointPolicy
from adapad_ray.training.packs import PackedTrainer, SharedPasses
from adapad_ray.training.passes.lane_passes import DivergedError

EVERY_ROUND = CheckpointPolicy(0.0, 1)
CASES = {
    "lora": MethodCase("lora", 2 * COST_PER_RANK, training={"epochs": 2}),
    "short": MethodCase("lora", COST_PER_RANK, training={"epochs": 1, "learning_rate": 3e-2}),
    "adapad": MethodCase("adapad", 3 * COST_PER_RANK, {"initial_rank": 1, "local_steps": 2, "growth_start": 0.3}),
    "head": MethodCase("head_only", None, training={"epochs": 1.5}),
}

SEEDS = {name: seed for seed, name in enumerate(CASES)}


def request(name, folder, **changes):
    case = CASES[name]
    changes = {"checkpoints": EVERY_ROUND, **changes}
    identity = case.identity(seed=SEEDS[name], packed=True)
    return CellRequest(name, identity, folder / name, "tiny", slots_per_pass=8, **changes)


def computed(folder, names=tuple(CASES), **observers):
    """How the cells end that are computed side by side in `folder`, in the order of their ends."""
    ends = {}
    cells = {name: PackedCell(request(name, folder), observer=observers.get(name)) for name in names}
    run_packed_cells(cells, tiny_workspace(), lambda name, end: ends.update({name: end}))
    return ends


@pytest.fixture(scope="module")
def lone(tmp_path_factory):
    """The record of every cell, computed alone."""
    folder, workspace = tmp_path_factory.mktemp("lone"), tiny_workspace()
    return {name: run_cell(request(name, folder), workspace) for name in CASES}


def assert_as_alone(result, lone, folder):
    expected = lone[result.id]
    np.testing.assert_allclose(result.train_loss, expected.train_loss, rtol=0, atol=1e-5)
    assert [(p.key, p.ranks, p.test) for p in result.points] == [(p.key, p.ranks, p.test) for p in expected.points]
    assert result.growth == expected.growth and result.cost.lane_passes == expected.cost.lane_passes
    assert json.loads((folder / result.id / RECORD).read_text())["id"] == result.id
    assert not (folder / result.id / CHECKPOINT / "checkpoint.safetensors").exists()


def test_every_cell_is_recorded_when_it_ends_as_if_it_were_alone(lone, tmp_path):
    ends = computed(tmp_path)
    assert list(ends) == sorted(CASES, key=lambda name: len(lone[name].train_loss))
    for result in ends.values():
        assert_as_alone(result, lone, tmp_path)
        assert (result.cost.side_by_side, lone[result.id].cost.side_by_side) == (len(CASES), 1)


def test_what_ends_one_cell_leaves_the_others_untouched(lone, tmp_path, monkeypatch):
    """A divergence, a cancellation, and a batch for which there is no memory."""
    begin = PackedTrainer.begin_step

    def begin_step(trainer):
        if trainer.step == 5 and trainer.batches.seed == SEEDS["head"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if trainer.step == 5 and trainer.batches.seed == SEEDS["adapad"]:
            with torch.no_grad():
                trainer.adapted.parameters(trainer.method.lanes(5)[0])[0].fill_(float("nan"))
        return begin(trainer)

    def cancel(stats):
        if stats.step == 4:
            raise TimeoutError("cancelled")

    monkeypatch.setattr(PackedTrainer, "begin_step", begin_step)
    ends = computed(tmp_path, short=cancel)
    assert isinstance(ends["head"], torch.OutOfMemoryError) and isinstance(ends["adapad"], DivergedError)
    assert isinstance(ends["short"], TimeoutError)
    assert_as_alone(ends["lora"], lone, tmp_path)
    assert (tmp_path / "short" / CHECKPOINT / "checkpoint.safetensors").exists(), "it can go on"


def test_a_cell_that_pauses_leaves_the_others_running_and_goes_on_beside_others(lone, tmp_path):
    workspace, ends = tiny_workspace(), {}
    asked = {
        name: request(name, tmp_path, pause_at=6 if name != "head" else None) for name in ("lora", "adapad", "head")
    }
    run_packed_cells(
        {name: PackedCell(r) for name, r in asked.items()}, workspace, lambda n, end: ends.update({n: end})
    )
    assert (ends["lora"], ends["adapad"]) == (None, None) and list(ends)[-1] == "head"
    assert_as_alone(ends["head"], lone, tmp_path)
    for name in ("lora", "adapad"):
        (rung,) = load_rungs(tmp_path / name)
        assert rung.step == 6 and rung.score is not None
    for result in computed(tmp_path, ("lora", "adapad")).values():
        assert_as_alone(result, lone, tmp_path)


def test_cells_continue_from_their_checkpoints_though_they_stand_at_different_steps(lone, tmp_path, monkeypatch):
    train, steps = SharedPasses.train_step, iter(range(7))

    def killed(passes, trainers):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return train(passes, trainers)

    with monkeypatch.context() as patched:
        patched.setattr(SharedPasses, "train_step", killed)
        with pytest.raises(KeyboardInterrupt):
            computed(tmp_path, names=("lora", "adapad"))
    seen = []

    def counted(passes, trainers):
        seen.append(len(trainers))
        return train(passes, trainers)

    monkeypatch.setattr(SharedPasses, "train_step", counted)
    ends = computed(tmp_path)
    for result in ends.values():
        assert_as_alone(result, lone, tmp_path)
    assert max(seen) == 4 and len(seen) < max(len(result.train_loss) for result in lone.values())


def test_the_times_of_cells_side_by_side_are_shares(tmp_path):
    ends = computed(tmp_path, names=("lora", "adapad"))
    lora, adapad = (ends[name].cost for name in ("lora", "adapad"))
    assert lora.train_seconds > 0 and lora.per_worker[0].compute_seconds <= lora.train_seconds
    assert adapad.train_seconds / adapad.lane_passes < 3 * lora.train_seconds / lora.lane_passes
