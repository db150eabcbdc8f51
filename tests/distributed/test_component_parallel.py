"""Invariant D1: however many workers share the lanes, exact mode gives bitwise the same adapter, ranks and losses."""

import pytest
import torch
from threads import train_together

from adapad_ray.testing import COST_PER_RANK, MethodCase, assert_same_training, uninterrupted
from adapad_ray.training.checkpoint import Checkpoint

GROWING = {"initial_rank": 0, "local_steps": 2, "growth_interval": 4}
CASES = [
    MethodCase("adapad", 3 * COST_PER_RANK, config={"local_steps": 2}),
    MethodCase("adapad", 3 * COST_PER_RANK, config=GROWING),
    MethodCase("adapad", 3 * COST_PER_RANK, config={**GROWING, "staleness": 2}),
    MethodCase("adapad", 3 * COST_PER_RANK, config={**GROWING, "initial_rank": 1, "local_steps": 1, "staleness": 1}),
    MethodCase("adapad", 3 * COST_PER_RANK, config={"initial_rank": 3, "local_steps": 1, "staleness": 4}),
    MethodCase("adapad", 4 * COST_PER_RANK, config={"initial_rank": 3, "advance_learning": False, "local_steps": 1}),
    MethodCase("adapad", 3 * COST_PER_RANK, config={**GROWING, "dropout": 0.3}, pooling="own"),
]


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_number_of_workers_changes_nothing(case, workers):
    for trainer in train_together(case, workers):
        assert_same_training(trainer, uninterrupted(case))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[4]], ids=str)
def test_a_checkpoint_made_by_any_number_of_workers_continues_with_any_other(case, workers, tmp_path):
    train_together(case, 2, checkpoint=tmp_path / "checkpoint", checkpoint_rounds=2)
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
    assert [t.exchange.traffic.bytes_fetched for t in trainers] == [lane * n for n in below]
