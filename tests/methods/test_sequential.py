"""What sequential deflation does: one component after another, frozen once trained, on the schedules of 2505.22602."""

import numpy as np
import pytest
import torch

from adapad_ray.adapters.lane import Lane
from adapad_ray.testing import COST_PER_RANK, MethodCase


def started(budget=3 * COST_PER_RANK, *, training=None, **config):
    trainer = MethodCase("sequential", budget, config, training=training or {}).trainer()
    trainer.start()
    return trainer


def components(trainer):
    """The optimizer steps (of 15) in which each component learns."""
    steps: dict[int, list[int]] = {}
    for step in range(trainer.total_steps):
        (lane,) = trainer.method.lanes(step)
        assert lane == Lane.deflation(lane.index)
        steps.setdefault(lane.index, []).append(step)
        trainer.run(stop_at=step + 1)
    return {k: len(of) for k, of in steps.items()}


@pytest.mark.parametrize(
    ("config", "shares"),
    [
        ({}, [5, 5, 5]),
        ({"more_first": 0.5}, [7, 5, 3]),
        ({"more_first": -0.5}, [3, 5, 7]),
        ({"more_first": 1.0}, [9, 5, 1]),
        ({"local_steps": 4}, [4, 8, 3]),  # four rounds, the last one short
        ({"local_steps": 5}, [5, 5, 5]),
    ],
)
def test_steps_are_shared_out_by_the_schedule(config, shares):
    assert list(components(started(**config)).values()) == shares


def test_shares_are_those_of_the_paper_beyond_the_one_round_of_each():
    """t_k ∝ max(1 + α x_k, 1e-9), x_k = 1 - 2(k - 1)/(r - 1), at the paper's r = 20 and T = 500."""
    method = MethodCase("sequential", 20 * COST_PER_RANK, {"more_first": 1.5}, training={"epochs": 500 / 6}).make()
    assert method.context.total_steps == 500
    x = 1 - 2 * np.arange(20) / 19
    weights = np.maximum(1 + 1.5 * x, 1e-9)
    expected = 1 + 480 * weights / weights.sum()
    steps = np.diff([0, *method._ends])
    assert steps.sum() == 500
    np.testing.assert_allclose(steps, expected, atol=1)


def test_a_finished_component_and_its_head_stand_still():
    trainer = started()
    trainer.run(stop_at=5)
    assert trainer.adapted.blocks == 2, "the next component is born when the first is finished"
    names = [n for n in trainer.adapted.state() if "|1|" in n or "|head|1." in n]
    before = {name: trainer.adapted.state()[name].clone() for name in names}
    assert any(value.any() for name, value in before.items() if name.endswith("|b"))
    trainer.run()
    after = trainer.adapted.state()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_component_starts_with_the_head_of_its_predecessor():
    trainer = started()
    trainer.run(stop_at=5)
    copies = trainer.adapted.heads["classifier"].copies
    assert torch.equal(copies["2"].weight, copies["1"].weight)
    trainer.run(stop_at=6)
    assert not torch.equal(copies["2"].weight, copies["1"].weight)


def test_every_component_has_a_learning_rate_schedule_of_its_own():
    trainer = started(training={"warmup_fraction": 0.0})
    rates = []
    for step in range(15):
        trainer.run(stop_at=step + 1)
        rates.append(trainer.optimizer._inner.param_groups[0]["lr"] / trainer.settings.learning_rate)
    np.testing.assert_allclose(rates, [1, 0.8, 0.6, 0.4, 0.2] * 3)


def test_there_are_no_more_components_than_rounds():
    plan = MethodCase("sequential", 4 * COST_PER_RANK, {"local_steps": 5}).make().plan()
    assert plan.parameters == 3 * COST_PER_RANK and set(plan.ranks.values()) == {3}
