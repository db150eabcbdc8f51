"""Invariant D1: however many workers share the lanes, exact mode gives bitwise the same adapter, ranks and losses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from threads import train_together

from adapad_ray.testing import COST_PER_RANK, MethodCase, assert_same_training, uninterrupted
from adapad_ray.training.checkpoint import Checkpoint, CheckpointPolicy
from adapad_ray.training.passes.lane_passes import DivergedError

GROWING = {"initial_rank": 0, "local_steps": 2, "growth_interval": 4}
CASES = [
    MethodCase("adapad", 3 * COST_PER_RANK, config={"local_steps": 2}),
    MethodCase("adapad", 3 * COST_PER_RANK, config=GROWING),
    MethodCase("adapad", 3 * COST_PER_RANK, config={**GROWING, "staleness": 2}),
    MethodCase("adapad", 3 * COST_PER_RANK, config={**GROWING, "initial_rank": 1, "local_steps": 1, "staleness": 1}),
    MethodCase("adapad", 3 * COST_PER_RANK, config={"initial_rank": 3, "local_steps": 1, "staleness": 4}),
    MethodCase("adapad", 4 * COST_PER_RANK, config={"initial_rank": 3, "advance_learning": False, "local_steps": 1}),
    MethodCase("adapad", 3 * COST_PER_RANK, config={**GROWING, "dropout": 0.3}, pooling="own"),
    MethodCase("adapad", 3 * COST_PER_RANK, config={**GROWING, "staleness": 2, "joint_fraction": 0.4}),
    MethodCase("adapad", 3 * COST_PER_RANK, config={"local_steps": 1, "joint_fraction": 0.2}),
]


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_number_of_workers_changes_nothing(case, workers):
    for trainer in train_together(case, workers):
        assert_same_training(trainer, uninterrupted(case))


def test_workers_that_pack_their_lanes_give_the_same_up_to_rounding():
    alone, trainers = uninterrupted(CASES[2]), train_together(replace(CASES[2], slots_per_pass=4), 2)
    assert any(trainer.passes._packs for trainer in trainers)
    for trainer in trainers:
        np.testing.assert_allclose(trainer.record.losses, alone.record.losses, rtol=0, atol=1e-4)
        assert trainer.adapted.ranks == alone.adapted.ranks


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[4], CASES[7]], ids=str)
def test_a_checkpoint_made_by_any_number_of_workers_continues_with_any_other(case, workers, tmp_path):
    train_together(case, 2, checkpoint=tmp_path / "checkpoint", policy=CheckpointPolicy(rounds=2))
    saved = Checkpoint.load(tmp_path / "checkpoint")
    assert 0 < saved.meta["step"] < uninterrupted(case).total_steps
    for trainer in train_together(case, workers, resume=saved):
        assert_same_training(trainer, uninterrupted(case))


def test_staleness_changes_what_lanes_read():
    cases = [MethodCase("adapad", config={"local_steps": 1, "staleness": n}) for n in (0, 1)]
    synchronous, stale = map(uninterrupted, cases)
    a, b = synchronous.checkpoint().tensors, stale.checkpoint().tensors
    names = [name for name in a if name in b and name.endswith("|2|b")]
    assert names and not any(torch.equal(a[name], b[name]) for name in names)


def test_traffic_is_triangular():
    case = MethodCase("adapad", 4 * COST_PER_RANK, config={"initial_rank": 4, "local_steps": 1})
    lane = 4 * COST_PER_RANK  # bytes of one estimate in fp32
    rounds = uninterrupted(case).total_steps - 1  # after the last round all gather
    trainers = train_together(case, 4)
    below = [sum(min(rounds, max(0, rounds - k + 1)) for k in range(1, own)) for own in (4, 1, 2, 3)]
    assert [t.workers.traffic.bytes_fetched for t in trainers] == [lane * n for n in below]


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("moment", ["within a round", "in the last step of a round"])
def test_a_diverged_lane_is_named_and_reaches_no_other_worker(moment, staleness):
    """Lane 2 breaks; the workers that wait for it learn that the attempt has ended, and report no lane."""
    config = {"initial_rank": 3, "local_steps": 2, "staleness": staleness}
    case, workers, broken_at = MethodCase("adapad", 3 * COST_PER_RANK, config), [], 6 if "within" in moment else 7

    def prepare(trainers):
        workers.extend(trainers)
        trainer = trainers[trainers[0].workers.owner(2)]
        train = trainer.train_step

        def train_and_break():
            loss = train()
            if trainer.step == broken_at + 1:
                with torch.no_grad():
                    next(iter(trainer.adapted.layers.values())).active()[1].b.fill_(float("inf"))
            return loss

        trainer.train_step = train_and_break

    step = 7  # of the loss that shows it, or of the parameters before they are published
    with pytest.raises(DivergedError, match=f"^lane 2, step {step}: "):
        train_together(case, 3, prepare=prepare)
    for trainer in workers:
        tensors = trainer.checkpoint().tensors
        published = [name for name in tensors if "|2|published" in name]
        assert published and all(torch.isfinite(tensors[name]).all() for name in published)


def test_rank_0_trains_the_joint_tail_alone():
    """The other worker waits from one gathering to the next: it trains nothing and fetches nothing."""
    rounds = {0: [], 1: []}

    def prepare(trainers):
        for rank, trainer in enumerate(trainers):
            trainer.observer = rounds[rank].append

    first, _ = train_together(CASES[8], 2, prepare=prepare)
    tail = {rank: [stats for stats in seen if stats.step > first.method.joint_start] for rank, seen in rounds.items()}
    steps = first.total_steps - first.method.joint_start
    assert [list(stats.losses) for stats in tail[0]] == [[first.adapted.blocks]] * steps
    assert [list(stats.losses) for stats in tail[1]] == [[]] * steps
    assert sum(stats.bytes_fetched for seen in tail.values() for stats in seen) == 0
    assert any(stats.losses and stats.bytes_fetched for stats in rounds[1]), "before, it did both"
