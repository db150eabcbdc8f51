"""What DyLoRA does: one run whose every prefix is a model (2210.07558)."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adapad_ray.testing import COST_PER_RANK, MethodCase


def started(ranks=4, **config):
    trainer = MethodCase("dylora", ranks * COST_PER_RANK, config).trainer()
    trainer.start()
    return trainer


def components(trainer):
    return {n: p.detach().clone() for n, p in trainer.adapted.named_parameters().items() if "|head|" not in n}


@pytest.mark.parametrize("update", ["prefix", "single"])
def test_a_step_trains_the_components_of_its_rank_and_no_others(update):
    trainer = started(update=update)
    seen = set()
    for step, b in enumerate(trainer.method.drawn):
        before, head = components(trainer), trainer.adapted.heads["classifier"].copies["1"].weight.detach().clone()
        trainer.run(stop_at=step + 1)
        moved = {int(n.split("|")[1]) for n, p in components(trainer).items() if not torch.equal(p, before[n])}
        assert moved == ({b} if update == "single" else set(range(1, b + 1)))
        assert not torch.equal(trainer.adapted.heads["classifier"].copies["1"].weight, head)
        seen.add(b)
    assert seen == {1, 2, 3, 4}


def test_a_single_component_learns_beside_the_present_values_of_those_before_it():
    trainer = started(update="single")
    for step in range(1, trainer.total_steps + 1):
        trainer.run(stop_at=step)
        for layer in trainer.adapted.layers.values():
            assert all(torch.equal(block.b, block.published_b) for block in layer.active())


@pytest.mark.parametrize("update", ["prefix", "single"])
def test_with_one_rank_it_is_lora(update):
    ours = started(1, update=update)
    lora = MethodCase("lora", COST_PER_RANK).trainer()
    lora.start()
    assert ours.run().losses == lora.run().losses


def test_a_run_that_always_draws_the_largest_rank_is_lora():
    ours = started(3)
    ours.method.drawn = [3] * ours.total_steps
    lora = MethodCase("lora", 3 * COST_PER_RANK).trainer()
    lora.start()
    assert ours.run().losses == pytest.approx(lora.run().losses, rel=1e-4)


def test_a_prefix_of_rank_b_has_the_scale_alpha_over_b():
    trainer = started(lora_alpha=6.0)
    trainer.run()
    for deployable in trainer.method.deployables():
        b = deployable.prefix or 4
        for name, (_, folded) in trainer.adapted.factors(deployable.lane).items():
            vectors = torch.cat([block.b for block in trainer.adapted.layers[name].active()[:b]])
            torch.testing.assert_close(folded, 6.0 / b * vectors.T)


def test_every_prefix_is_a_point_with_the_same_head(tmp_path):
    result = MethodCase("dylora", 4 * COST_PER_RANK + 100).run(tmp_path)
    assert [point.parameters for point in result.points] == [b * COST_PER_RANK for b in (4, 3, 2, 1)]
    assert result.budget_remainder == 100
    assert result.cost.lane_passes == result.cost.steps
    stored = [load_file(tmp_path / point.adapter / "adapter_model.safetensors") for point in result.points]
    for one, other in pairwise(stored):
        heads = [name for name in one if ".lora_" not in name]
        assert heads and all(torch.equal(one[name], other[name]) for name in heads)


def draws(steps=4000, seed=0, **config):
    case = MethodCase("dylora", 5 * COST_PER_RANK, config, training={"epochs": steps / 6})
    return case.make(seed=seed).drawn


def test_ranks_are_drawn_as_the_distribution_says():
    uniform, geometric = (np.bincount(draws(distribution=d), minlength=6)[1:] / 4000 for d in ("uniform", "geometric"))
    np.testing.assert_allclose(uniform, 0.2, atol=0.03)
    weights = 0.85 ** np.arange(5)
    np.testing.assert_allclose(geometric, weights / weights.sum(), atol=0.03)


def test_the_rank_of_a_step_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = draws()
    torch.manual_seed(2)
    assert draws() == first
    assert draws(seed=1) != first
