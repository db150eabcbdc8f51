"""What IncreLoRA does: joint training, reserves that learn beforehand, growth by the importance of ΔW (2308.12043)."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from adapad_ray.adapters.triplet import Triplet
from adapad_ray.budget import ModuleShape
from adapad_ray.methods.increlora import Increlora, IncreloraConfig
from adapad_ray.methods.plan import CellContext
from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_backbone, tiny_task


def started(budget=3 * COST_PER_RANK, **config):
    trainer = MethodCase("increlora", budget, config).trainer()
    trainer.start()
    return trainer


def modules():
    return MethodCase("lora", COST_PER_RANK).make().context.modules


# Components


def test_a_reserve_acts_by_a_hundred_thousandth_and_its_scalar_is_born_with_its_activation():
    block = Triplet().block(ModuleShape("m", 6, 4), 1, torch.Generator().manual_seed(0))
    assert [name for name, _ in block.named_parameters()] == ["a", "b", "e"]
    a, b = block.vectors()
    assert a.any() and not b.any(), "an active component starts as no update"
    block.hold_back()
    assert [name for name, _ in block.named_parameters()] == ["a", "b"]
    held = block.vectors()[1]
    assert torch.equal(held, block.b * 1e-5)
    block.release()
    assert [name for name, _ in block.named_parameters()] == ["a", "b", "e"]
    torch.testing.assert_close(block.vectors()[1], held)


def test_the_first_reserves_are_born_after_the_first_step():
    trainer = started()
    assert not trainer.method.growing and not trainer.method.lanes(0)[0].reserve
    trainer.run(stop_at=1)
    assert all(layer.reserve is not None for layer in trainer.adapted.layers.values())
    assert trainer.method.lanes(1)[0].reserve


def test_all_components_and_reserves_learn_in_one_pass():
    trainer = started(growth_interval=3, growth_end=0.8)
    trainer.run(stop_at=7)
    assert max(trainer.adapted.ranks.values()) >= 2 and trainer.method.growing
    before = {name: p.detach().clone() for name, p in trainer.adapted.named_parameters().items()}
    trainer.run(stop_at=8)
    same = [name for name, p in trainer.adapted.named_parameters().items() if torch.equal(p, before[name])]
    assert not same
    assert trainer.record.work.lane_passes == 8


def test_an_activated_reserve_keeps_what_it_has_learnt_and_its_scalar_warms_up():
    trainer = started(growth_interval=4, growth_end=0.8)
    trainer.run(stop_at=3)
    reserves = {name: layer.reserve for name, layer in trainer.adapted.layers.items()}
    trainer.run(stop_at=4)
    grown = [event.module for event in trainer.record.growth]
    adam, births = trainer.optimizer._inner.state, trainer.optimizer._births
    assert 0 < len(grown) < len(reserves)
    for name in grown:
        block = trainer.adapted.layers[name].active()[-1]
        assert block is reserves[name] and float(block.e.detach()) == pytest.approx(1e-5)
        assert float(adam[block.a]["step"]) == 3 and block.e not in adam
        assert (births[block.a], births[block.e]) == (1, 4)
        assert trainer.adapted.layers[name].reserve is not block
    trainer.run(stop_at=5)
    assert all(float(trainer.adapted.layers[name].active()[-1].e.detach().abs()) > 1e-4 for name in grown)


# Scores


def test_the_importance_is_that_of_the_dense_update():
    """Against autograd through W₀ + ΔW with ΔW [d_out, d_in] as one leaf per module."""
    trainer = started(lora_alpha=8.0, growth_interval=3, growth_end=0.8)
    trainer.run(stop_at=6)
    lane, batch = trainer.method.lanes(6)[0], trainer.batches.load(trainer.batches.rows(6))
    trainer.adapted.use(lane)
    F.cross_entropy(trainer.adapted.model(**batch.inputs).logits, batch.labels).backward()
    got = trainer.method._importance.take()

    model, updates = tiny_backbone().model, {}
    model.classifier.load_state_dict(trainer.adapted.heads["classifier"].copies["1"].state_dict())
    for name, layer in trainer.adapted.layers.items():
        with torch.no_grad():
            a, b = (torch.cat(side) for side in zip(*(block.vectors() for block in layer.active()), strict=True))
            updates[name] = ((8.0 / layer.rank) * b.T @ a).requires_grad_(True)
        weight = layer.base.weight.detach() + updates[name]
        model.get_submodule(name).forward = lambda x, weight=weight, bias=layer.base.bias: F.linear(x, weight, bias)
    F.cross_entropy(model(**batch.inputs).logits, batch.labels).backward()
    assert set(got) == set(updates) and max(layer.rank for layer in trainer.adapted.layers.values()) > 1
    for name, update in updates.items():
        expected = (update * update.grad).abs().sum().item() / np.sqrt(update.numel())
        assert float(got[name]) == pytest.approx(expected, rel=1e-3)


def test_nothing_is_scored_once_growth_has_ended():
    trainer = started(growth_end=0.4)
    trainer.run(stop_at=8)
    state = copy.deepcopy(trainer.method.state())
    trainer.run()
    assert trainer.method.state() == state and trainer.method._importance.take() == {}


# Growth


@pytest.mark.parametrize(
    ("budget", "config"),
    [
        (2 * COST_PER_RANK, {}),
        (3 * COST_PER_RANK - 1, {"top_h": 2, "growth_interval": 2}),
        (6 * COST_PER_RANK, {"growth_interval": 100}),
        (COST_PER_RANK + 64, {"growth_end": 1.0}),
    ],
)
def test_ranks_grow_until_nothing_fits(budget, config):
    trainer = started(budget, **config)
    trainer.run()
    ranks, costs = trainer.adapted.ranks, trainer.method.costs
    spent = sum(rank * costs[name] for name, rank in ranks.items())
    assert trainer.method.ledger.spent == spent <= budget
    assert budget - spent < min(costs.values())
    assert not trainer.method.growing
    assert max(event.step for event in trainer.record.growth) <= trainer.method.schedule.end


def test_the_top_h_modules_grow_by_one_component_each():
    trainer = started(4 * COST_PER_RANK, top_h=3, growth_interval=2, growth_end=0.9)
    planted = [m.name for m in modules()][2:8]
    trainer.method.scores = SimpleNamespace(
        add=lambda modules, importances: None,
        value=lambda name: 100.0 - planted.index(name) if name in planted else 1.0,
        state=lambda: {},
    )
    trainer.run(stop_at=2 * 3)
    assert [(event.step, event.module) for event in trainer.record.growth] == [
        (step, name) for step in (2, 4, 6) for name in planted[:3]
    ]


def test_the_scale_is_alpha_over_the_rank_of_the_time():
    trainer = started(lora_alpha=5.0)
    assert {layer.scaling for layer in trainer.adapted.layers.values()} == {5.0}
    trainer.run()
    assert len(set(trainer.adapted.ranks.values())) > 1
    assert all(layer.scaling == 5.0 / layer.rank for layer in trainer.adapted.layers.values())


def test_defaults_on_deberta_are_near_the_published_settings():
    """72 modules at mean rank 2, RTE: 50 epochs of 78 steps, 5 modules every 100 steps."""
    shapes = tuple(
        ModuleShape(f"{layer}.{name}", d_in, d_out)
        for layer in range(12)
        for name, d_in, d_out in [
            *((square, 768, 768) for square in ("query", "key", "value", "output")),
            ("intermediate", 768, 3072),
            ("down", 3072, 768),
        ]
    )
    method = Increlora(IncreloraConfig(), CellContext(shapes, 331_776, total_steps=3900, seed=0))
    assert method.top_h == 5
    assert (method.schedule.start, method.schedule.interval) == (91, 91)
    growths = -(-72 // method.top_h)
    assert method.schedule.start + (growths - 1) * method.schedule.interval <= method.schedule.end == 1365


# The orthogonality penalty


def test_the_penalty_is_the_mean_distance_of_the_gram_matrices_from_the_identity():
    trainer = started(orthogonality=0.3, growth_interval=3, growth_end=0.8)
    trainer.run(stop_at=7)
    lane = trainer.method.lanes(7)[0]
    penalty = trainer.method.penalty(lane)
    distances = []
    for layer in trainer.adapted.layers.values():
        for side in ("a", "b"):
            rows = np.concatenate([getattr(block, side).detach().numpy() for block in layer.active()])
            distances.append(np.sqrt(((rows @ rows.T - np.eye(len(rows))) ** 2).sum()))
    assert penalty.item() == pytest.approx(0.3 * np.mean(distances), rel=1e-5)
    penalty.backward()
    for layer in trainer.adapted.layers.values():
        assert layer.reserve.a.grad is None and all(block.a.grad is not None for block in layer.active())


def test_without_weight_there_is_no_penalty():
    trainer = started(orthogonality=0.0)
    assert trainer.method.penalty(trainer.method.lanes(0)[0]) is None


def test_the_optimizer_forgets_what_learns_no_longer():
    trainer = started()
    for step in range(1, trainer.total_steps + 1):
        trainer.run(stop_at=step)
        known = {p for group in trainer.optimizer._inner.param_groups for p in group["params"]}
        assert known == set(trainer.adapted.named_parameters().values()) == set(trainer.optimizer._births)


def test_it_learns():
    case = MethodCase("increlora", 3 * COST_PER_RANK, training={"epochs": 12, "learning_rate": 1e-2})
    trainer = case.trainer()
    trainer.start()
    losses = trainer.run().losses
    per_epoch = -(-len(tiny_task().splits["train"]) // 8)
    assert np.mean(losses[-per_epoch:]) < 0.5 * np.mean(losses[:per_epoch])
