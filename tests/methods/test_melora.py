"""MELoRA against dense block-diagonal algebra, and at the parameter counts of its paper (2402.17263)."""

import json
from itertools import product

import pytest
import torch
from safetensors.torch import load_file

from adapad_ray.budget import BudgetTooSmallError, ModuleShape
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.melora import Melora, MeloraConfig
from adapad_ray.methods.plan import CellContext
from adapad_ray.testing import COST_PER_RANK, MethodCase

ROBERTA_BASE = tuple(ModuleShape(f"{i}.{name}", 768, 768) for i in range(12) for name in ("query", "value"))
"""What the paper adapts for GLUE: query and value of all layers."""
LLAMA_2_7B = tuple(ModuleShape(f"{i}.{name}", 4096, 4096) for i in range(32) for name in ("q_proj", "v_proj"))


def plan(modules, budget, **config):
    return Melora(MeloraConfig(**config), CellContext(modules, budget, 100, 0)).plan()


def formula(modules, minis, rank):
    """The paper's count: every one of n mini LoRAs has r d_in/n + d_out/n r parameters."""
    return sum(minis * (rank * m.in_features // minis + m.out_features // minis * rank) for m in modules)


@pytest.mark.parametrize(("minis", "rank"), product([1, 2, 8, 16], [1, 3, 8]))
def test_n_times_the_rank_costs_what_the_rank_costs(minis, rank):
    for modules in (ROBERTA_BASE, LLAMA_2_7B):
        needed = formula(modules, minis, rank)
        for budget in (needed, needed + formula(modules, minis, 1) - 1):
            planned = plan(modules, budget, minis=minis)
            assert planned.parameters == planned.peak_parameters == needed
            assert set(planned.ranks.values()) == {minis * rank}
            assert planned.acting_parameters == minis * needed


def test_rank_8_on_roberta_has_an_eighth_of_loras_parameters():
    """The paper's comparison: LoRA of rank 8 has 0.29 million there."""
    planned = plan(ROBERTA_BASE, 36_864, minis=8)
    assert (planned.parameters, set(planned.ranks.values())) == (8 * 24 * (768 + 768) // 8, {8})


def test_the_rank_ends_where_a_mini_lora_is_as_large_as_its_slice():
    modules = (ModuleShape("wide", 64, 32), ModuleShape("square", 32, 32))
    assert plan(modules, 10**6, minis=8).ranks == {"wide": 32, "square": 32}
    assert plan(modules, 10**6, minis=8).parameters == 4 * (96 + 64)


def test_a_wanted_rank_is_kept_or_refused():
    assert plan(ROBERTA_BASE, 10**6, minis=4, rank=2).parameters == 73_728
    message = r"budget 73,727 is below 4 mini LoRAs of rank 2 on each of 24 modules \(73,728\)"
    with pytest.raises(BudgetTooSmallError, match=message):
        plan(ROBERTA_BASE, 73_727, minis=4, rank=2)


def test_minis_must_divide_every_dimension():
    with pytest.raises(BadRequestError, match=r"minis 5 does not divide 0\.query, which is 768 × 768"):
        plan(ROBERTA_BASE, 10**6, minis=5)


@pytest.fixture
def trained():
    """Four mini LoRAs of rank 2 on every module of the tiny backbone, after 15 steps."""
    trainer = MethodCase("melora", 2 * COST_PER_RANK, {"minis": 4, "lora_alpha": 3.0}).trainer()
    trainer.start()
    trainer.run()
    return trainer


def dense_update(a, b, minis, d_in, d_out, scale):
    """Block (i, i) of ΔW is s B_i A_i, every other block is zero."""
    rank = a.shape[0] // minis
    update = torch.zeros(d_out, d_in)
    for i in range(minis):
        rows, columns = d_out // minis, d_in // minis
        a_i, b_i = a[i * rank : (i + 1) * rank], b[i * rank : (i + 1) * rank].T
        update[i * rows : (i + 1) * rows, i * columns : (i + 1) * columns] = scale * b_i @ a_i
    return update


def test_the_layer_computes_the_dense_block_diagonal_update(trained):
    trained.adapted.use(trained.method.lanes(0)[0])
    for layer in trained.adapted.layers.values():
        (block,) = layer.active()
        d_in, d_out = layer.shape.in_features, layer.shape.out_features
        assert (block.a.shape, block.b.shape) == ((8, d_in // 4), (8, d_out // 4))
        update = dense_update(block.a, block.b, 4, d_in, d_out, scale=3.0 / 2)
        x = torch.randn(5, d_in)
        torch.testing.assert_close(layer(x) - layer.base(x), x @ update.T, rtol=1e-4, atol=1e-5)
        singular = torch.linalg.svdvals(update.double())
        assert int((singular > 1e-6 * singular[0]).sum()) == 8  # n r, where LoRA with these parameters has rank 2


def test_gradients_reach_the_slices_alone(trained):
    """Those of the dense factors, cut to the blocks."""
    layer = next(iter(trained.adapted.layers.values()))
    (block,) = layer.active()
    a, b = (v.detach().clone().requires_grad_() for v in block.vectors())
    weight = torch.randn(layer.shape.out_features, layer.shape.in_features)
    (weight * (b.T @ a)).sum().backward()
    own_a, own_b = block.vectors()
    gradients = torch.autograd.grad((weight * (own_b.T @ own_a)).sum(), [block.a, block.b])
    for gradient, dense in zip(gradients, (a.grad, b.grad), strict=True):
        width = gradient.shape[1]
        cut = [dense[2 * i : 2 * i + 2, i * width : (i + 1) * width] for i in range(4)]
        torch.testing.assert_close(gradient, torch.cat(cut))


def test_one_mini_lora_is_lora():
    losses = {}
    for method, config in (("lora", {}), ("melora", {"minis": 1})):
        trainer = MethodCase(method, 2 * COST_PER_RANK, config).trainer()
        trainer.start()
        trainer.run()
        losses[method] = trainer.record.losses
    assert losses["melora"] == pytest.approx(losses["lora"], abs=1e-6)


def test_the_compact_file_has_the_blocks_and_the_lora_file_the_zeros_too(tmp_path):
    result = MethodCase("melora", 2 * COST_PER_RANK, {"minis": 4}).run(tmp_path)
    folder = tmp_path / result.final.adapter
    said = json.loads((folder / "adapad.json").read_text())
    compact, lora = load_file(folder / "melora.safetensors"), load_file(folder / "adapter_model.safetensors")
    assert sum(t.numel() for t in compact.values()) == result.final.parameters == said["parameters"]
    assert said["lora_parameters"] == 4 * said["parameters"]
    for name in result.final.ranks:
        a, b = (lora[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
        update = dense_update(compact[f"{name}.a"], compact[f"{name}.b"], 4, a.shape[1], b.shape[0], scale=1.0)
        torch.testing.assert_close(b @ a, update)
