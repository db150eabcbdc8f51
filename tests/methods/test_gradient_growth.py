"""Growth by the gradients of the frozen weights: what is measured, and where components go."""

from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from adapad_ray.methods import adapad
from adapad_ray.methods.adapad import AdapadConfig
from adapad_ray.methods.growth import GradientScores, depths
from adapad_ray.testing import COST_PER_RANK, MethodCase
from adapad_ray.training.checkpoint import Checkpoint
from tests.methods.reference import frozen_gradients


def trained(budget, steps, **config):
    """A trainer after some steps; growth at 40 % of 16 steps unless `config` has another."""
    settings = {"initial_rank": 0, "local_steps": 1, "growth_start": 0.4, **config}
    trainer = MethodCase("adapad", budget, settings).trainer()
    trainer.start()
    trainer.run(stop_at=steps)
    return trainer


def test_a_sketch_has_the_norm_and_the_singular_values_of_the_gradient(monkeypatch):
    monkeypatch.setattr(adapad, "PROBE_SIZE", 4096)
    trainer = trained(500, 0)
    taken = {}
    probes = {name: layer.reserve for name, layer in trainer.adapted.layers.items()}
    trainer.method.observe = lambda lane: taken.update(
        {name: probe.take(add=False) for name, probe in probes.items()} if lane.reserve else {}
    )
    expected = frozen_gradients(trained(500, 0), 0)
    trainer.run(stop_at=1)
    for name, gradient in expected.items():
        sketch = taken[name] / trainer.adapted.layers[name].scaling
        largest = torch.linalg.svdvals(gradient)[:2]
        assert sketch.norm() == pytest.approx(gradient.norm(), rel=0.1)
        torch.testing.assert_close(torch.linalg.svdvals(sketch)[:2], largest, rtol=0.15, atol=1e-6)


def test_a_probe_never_acts_and_never_learns():
    trainer = trained(500, 4)
    for layer in trainer.adapted.layers.values():
        assert layer.reserve.size == adapad.PROBE_SIZE
        assert not layer.reserve.b.any() and not list(layer.reserve.parameters())
    assert trainer.adapted.adapter_parameters() == 0
    assert trainer.record.peak_parameters == 0


def test_the_first_half_of_the_steps_before_growth_is_not_measured():
    trainer = trained(500, 4)
    start = trainer.method.schedule.start
    assert trainer.method.scores.skip == start // 2 == 3
    assert set(trainer.method.scores._batches.values()) == {1}


def test_all_of_the_budget_is_assigned_at_once_and_no_probe_is_left():
    trainer = trained(3 * COST_PER_RANK // 2, 16)
    assert {event.step for event in trainer.record.growth} == {trainer.method.schedule.start}
    assert not trainer.method.growing
    assert 0 <= 3 * COST_PER_RANK // 2 - trainer.adapted.active_parameters() < min(trainer.method.costs.values())


def test_components_go_to_large_gradients_on_which_batches_agree():
    """Of three modules, one has a large gradient, one a large one that changes its sign, and one a small one."""
    trainer = trained(500, 0)
    scores, layers = GradientScores(), trainer.adapted.layers
    steady, noisy, small, *others = layers
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(layers[steady].reserve.b.shape, generator=generator)
    for batch in range(6):
        for name in (steady, noisy, small):
            noise = 0.1 * torch.randn(direction.shape, generator=generator)
            size = {steady: 1.0, noisy: (-1.0) ** batch + 0.1, small: 0.05}[name]
            layers[name].reserve.b.grad = size * direction[:, : layers[name].shape.out_features] + noise
        scores.update(trainer.adapted)
    first = {name: of[0] for name, of in scores.of_components(trainer.adapted).items()}
    assert first[steady] > 10 * max(first[noisy], first[small]) > 0
    assert all(first[name] == 0 for name in others), "a module without two batches has no score"


def test_of_equal_gradients_the_earlier_layer_scores_more():
    names = ["encoder.layer.0.query", "encoder.layer.0.key", "encoder.layer.3.query", "decoder.1.value", "projection"]
    assert depths(names) == {names[0]: 1.0, names[1]: 1.0, names[2]: 0.25, names[3]: 0.5}
    trainer = trained(500, 0)
    layers = trainer.adapted.layers
    early, late = (next(name for name in layers if f"layer.{i}.attention.self.query" in name) for i in (0, 1))
    scores, generator = GradientScores(depths(layers)), torch.Generator().manual_seed(0)
    for _ in range(3):
        sketch = torch.randn(layers[early].reserve.b.shape, generator=generator)
        for name in (early, late):
            layers[name].reserve.b.grad = sketch.clone()
        scores.update(trainer.adapted)
    of = scores.of_components(trainer.adapted)
    assert of[early] == pytest.approx([2**2 * score for score in of[late]])


def test_of_equal_scores_the_smaller_components_come_first(monkeypatch):
    trainer = trained(COST_PER_RANK // 2, 5)
    method = trainer.method
    monkeypatch.setattr(method.scores, "of_components", lambda adapted: {name: [1.0] for name in adapted.layers})
    grown = {event.module for event in method.end_round(method.schedule.start, torch.Generator()).grown}
    left_out = method.costs.keys() - grown
    assert left_out and max(method.costs[name] for name in grown) <= min(method.costs[name] for name in left_out)


def test_a_later_growth_measures_what_the_components_have_left():
    trainer = trained(2 * COST_PER_RANK, 16, growth_end=0.8, growth_interval=3)
    steps = sorted({event.step for event in trainer.record.growth})
    assert len(steps) > 1
    spent = {event.step: event.spent for event in trainer.record.growth}
    assert all(spent[a] < spent[b] for a, b in pairwise(steps))


def test_a_checkpoint_between_two_measurements_changes_nothing(tmp_path):
    case = MethodCase("adapad", COST_PER_RANK, {"initial_rank": 0, "local_steps": 1, "growth_start": 0.5})
    whole = case.trainer()
    whole.start()
    whole.run()
    part = case.trainer()
    part.start()
    part.run(stop_at=6)
    part.checkpoint().save(tmp_path / "checkpoint")
    resumed = case.trainer()
    resumed.resume(Checkpoint.load(tmp_path / "checkpoint"))
    resumed.run()
    assert resumed.record.growth == whole.record.growth
    expected = whole.adapted.state()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.adapted.state().items())


def test_family_cp_grows_by_reserves():
    assert not AdapadConfig(family="cp").by_gradient
    assert AdapadConfig(family="cp").growth_shares(1000) == (0.1, 0.6)
    with pytest.raises(ValidationError, match="growth_score gradient is for plain components"):
        AdapadConfig(family="cp", growth_score="gradient")


def test_growth_by_gradients_is_early_but_not_before_ten_steps_unless_they_are_few():
    config = AdapadConfig()
    assert config.growth_shares(1000) == (0.05, 0.05)
    assert config.growth_shares(160) == (10 / 160, 10 / 160)
    assert config.growth_shares(20) == (0.1, 0.1)
