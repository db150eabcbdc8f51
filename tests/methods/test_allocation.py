"""FIM-LoRA and GoRA: what the calibration measures, against autograd, and how a budget is divided."""

import pytest
import torch

from adapad_ray.budget import BudgetTooSmallError, ModuleShape
from adapad_ray.methods.allocation.fim import Fim, FimConfig
from adapad_ray.methods.plan import CellContext
from adapad_ray.testing import COST_PER_RANK, MethodCase
from tests.methods.reference import frozen_gradients

CALIBRATION = 3


def trained(method, budget, steps, **config):
    """A trainer after some steps, with a calibration of three."""
    trainer = MethodCase(method, budget, {"calibration_steps": CALIBRATION, **config}).trainer()
    trainer.start()
    trainer.run(stop_at=steps)
    return trainer


def calibration_gradients(method, budget):
    """The gradients of every step of the calibration, each with the head as trained until then."""
    return [frozen_gradients(trained(method, budget, step), step) for step in range(CALIBRATION)]


def test_fim_claims_the_mean_squared_gradient_of_a_loras_b():
    budget = 2 * COST_PER_RANK
    calibrated = trained("fim", budget, CALIBRATION - 1)
    layers = calibrated.adapted.layers
    directions = {name: layer.reserve.a.clone() for name, layer in layers.items()}
    assert {len(a) for a in directions.values()} == {2}, "a LoRA of the budget's mean rank"
    claimed = {}
    claims = calibrated.method.claims
    calibrated.method.claims = lambda probes: claimed.update(claims(probes)) or claimed
    calibrated.run(stop_at=CALIBRATION)
    steps = calibration_gradients("fim", budget)
    for name, a in directions.items():
        of_b = [layers[name].scaling * gradients[name] @ a.T for gradients in steps]  # the gradients of B [d_out, r]
        expected = sum(g.square().mean() for g in of_b)
        assert claimed[name] == pytest.approx(float(expected), rel=1e-4)


def test_gora_claims_by_weight_times_gradient_and_starts_along_the_gradient():
    budget, step_size = 2 * COST_PER_RANK, 0.5
    calibrated = trained("gora", budget, CALIBRATION - 1, step_size=step_size)
    claimed = {}
    claims = calibrated.method.claims
    calibrated.method.claims = lambda probes: claimed.update(claims(probes)) or claimed
    calibrated.run(stop_at=CALIBRATION)
    steps = calibration_gradients("gora", budget)
    started = 0
    for name, layer in calibrated.adapted.layers.items():
        mean = sum(gradients[name] for gradients in steps) / CALIBRATION  # [d_out, d_in]
        importance = (layer.base.weight * mean).abs().mean()
        assert claimed[name] == pytest.approx(float(importance / sum(mean.shape) ** 0.5), rel=1e-4)
        for block in layer.active():
            a, b = (side.detach() for side in block.vectors())  # [r, d_in], [r, d_out]
            projected = mean @ torch.linalg.pinv(a) @ a
            expected = -step_size * (a.shape[1] / len(a)) ** 0.5 * projected
            torch.testing.assert_close(layer.scaling * b.T @ a, expected, rtol=1e-3, atol=1e-6)
            started += 1
    assert started == len({event.module for event in calibrated.record.growth}) > 0


def test_a_first_update_of_size_zero_is_the_start_of_lora():
    trainer = trained("gora", COST_PER_RANK, CALIBRATION, step_size=0.0)
    assert all(not block.b.any() for layer in trainer.adapted.layers.values() for block in layer.active())


def test_ranks_are_in_proportion_to_claims():
    """The example of D'Hondt's method that textbooks divide: 340, 280, 160 and 60 thousand votes, seven seats."""
    modules = tuple(ModuleShape(name, 32, 32) for name in "abcd")
    method = Fim(FimConfig(), CellContext(modules, 7 * 64 + 63, 100, 0))
    assert method._ranks({"a": 340.0, "b": 280.0, "c": 160.0, "d": 60.0}) == {"a": 3, "b": 3, "c": 1}


@pytest.mark.parametrize("method", ["fim", "gora"])
@pytest.mark.parametrize("budget", [70, 500, 3 * COST_PER_RANK + 63])
def test_a_budget_is_spent_up_to_less_than_one_component(method, budget):
    trainer = trained(method, budget, CALIBRATION)
    assert 0 <= budget - trainer.adapted.active_parameters() < min(trainer.method.costs.values())
    assert {event.step for event in trainer.record.growth} == {CALIBRATION}
    assert not any(layer.reserve for layer in trainer.adapted.layers.values())


@pytest.mark.parametrize("method", ["fim", "gora"])
def test_a_budget_below_the_smallest_component_is_refused(method):
    with pytest.raises(BudgetTooSmallError, match=r"budget 63 is below the smallest component \(64\)"):
        MethodCase(method, 63).make().plan()


def test_a_calibration_takes_at_most_half_of_the_steps():
    assert MethodCase("gora", COST_PER_RANK).make().calibration == 7
