"""Numbers that are read when a round ends: the first that is not finite is the one named."""

import pytest
import torch

from adapad_ray.adapters.lane import RESERVE
from adapad_ray.testing import COST_PER_RANK, MethodCase
from adapad_ray.training.passes.lane_passes import DivergedError, LanePass, LanePasses

NAN, INF = float("nan"), float("inf")


def passes(*numbers):
    """Passes of lane 1 and the reserve lane in turn, from step 4 on, with the given losses and gradient norms."""
    read = LanePasses()
    for i, (loss, norm) in enumerate(numbers):
        step, position = 4 + i // 2, i % 2
        lane, size = (1, RESERVE)[position], (torch.tensor(30.0), torch.tensor(40.0)) if position else (30, 40)
        read.add(LanePass(step, position, lane, 7, 30, size, torch.tensor(loss), torch.tensor(norm).double()))
    return read


def test_numbers_are_read_once_and_in_order():
    read = passes((0.1, 1.0), (0.25, 1.0), (0.3, 2.0))
    finished = read.read({1: torch.tensor(5.0)})
    assert [(p.step, p.position, p.lane) for p in finished] == [(4, 0, 1), (4, 1, RESERVE), (5, 0, 1)]
    assert [p.loss for p in finished] == [float(torch.tensor(loss)) for loss in (0.1, 0.25, 0.3)]
    assert {(p.tokens, p.padded_tokens, p.acting_parameters) for p in finished} == {(30, 40, 7)}
    assert read.read({}) == []


@pytest.mark.parametrize(
    ("numbers", "largest", "message"),
    [
        ([(1.0, 1.0), (NAN, NAN), (NAN, NAN)], 1.0, "lane reserve, step 4: the loss is nan"),
        ([(1.0, INF), (NAN, 1.0), (1.0, 1.0)], INF, "lane 1, step 4: the gradient norm is inf"),
        ([(1.0, 1.0), (1.0, 1.0), (-INF, 1.0)], NAN, "lane 1, step 5: the loss is -inf"),
        ([(1.0, 1.0), (1.0, 1.0), (1.0, 1.0)], NAN, "lane 1, step 5: the largest parameter is nan"),
    ],
)
def test_the_first_that_is_not_finite_is_named(numbers, largest, message):
    with pytest.raises(DivergedError) as diverged:
        passes(*numbers).read({1: torch.tensor(largest)})
    assert str(diverged.value) == message


@pytest.mark.parametrize("lane", [1, 2])
def test_a_lane_that_breaks_within_a_round_is_named_with_its_step_when_the_round_ends(lane):
    trainer = MethodCase("adapad", 2 * COST_PER_RANK, {"initial_rank": 2, "local_steps": 5}).trainer()
    trainer.start()
    trainer.run(stop_at=7)
    before = {name: tensor.clone() for name, tensor in trainer.adapted.state().items() if "published" in name}
    with torch.no_grad():
        next(iter(trainer.adapted.layers.values())).active()[lane - 1].b.fill_(NAN)
    with pytest.raises(DivergedError, match=f"^lane {lane}, step 7: the loss is nan$"):
        trainer.run()
    assert trainer.step == 10, "the round has been trained to its end"
    after = trainer.adapted.state()
    assert before and all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert len(trainer.record.losses) == 7
