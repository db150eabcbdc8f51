"""DoRA runs through PEFT: its losses, and a count that holds the lengths of the rows."""

from __future__ import annotations

import json

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

from adapad_ray.adapters.lane import Lane
from adapad_ray.budget import BudgetTooSmallError, ModuleShape
from adapad_ray.methods import CellContext, Dora
from adapad_ray.methods.dora import DoraConfig
from adapad_ray.testing import COST_PER_RANK, MethodCase
from tests.methods.reference import SQUARE, SquareCase, backbone_with_head, train

CASE = SquareCase("dora", 8 * (2 * 64 + 32), {"lora_alpha": 3.0}, training={"learning_rate": 2e-2})
LENGTHS = 2 * (5 * 32 + 64)
"""Rows of all modules of the tiny backbone."""


def test_losses_and_weights_are_those_of_pefts_dora():
    trainer = CASE.trainer()
    trainer.start()
    config = peft.LoraConfig(
        r=2, lora_alpha=3.0, use_dora=True, target_modules=list(SQUARE), modules_to_save=["classifier"]
    )
    model = peft.get_peft_model(backbone_with_head(), config).eval()
    for name, layer in trainer.adapted.peft_layers.items():
        theirs = model.base_model.model.get_submodule(name)
        theirs.lora_A["default"].weight.data.copy_(layer.lora_A["default"].weight)
        start = layer.lora_magnitude_vector["default"].weight
        assert torch.equal(theirs.lora_magnitude_vector["default"].weight, start)
    losses = train(model, learning_rate=2e-2)
    record = trainer.run()
    np.testing.assert_allclose(record.losses, losses, rtol=0, atol=1e-5)
    assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6]), "it learns, so the comparison says something"
    for name, length in trainer.adapted.magnitudes(Lane.prefix(1)).items():
        theirs = model.base_model.model.get_submodule(name).lora_magnitude_vector["default"].weight
        np.testing.assert_allclose(length.detach(), theirs.detach(), atol=1e-4)
        assert not torch.equal(length, trainer.adapted.peft_layers[name].get_base_layer().weight.norm(dim=1))


def test_the_lengths_count_and_are_exported(tmp_path):
    result = MethodCase("dora", 2 * COST_PER_RANK + LENGTHS).run(tmp_path)
    assert result.final.parameters == 2 * COST_PER_RANK + LENGTHS and result.budget_remainder == 0
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    lengths = {name: tensor for name, tensor in stored.items() if name.endswith(".lora_magnitude_vector")}
    assert len(lengths) == 12 and sum(tensor.numel() for tensor in lengths.values()) == LENGTHS
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["use_dora"] is True


@pytest.mark.parametrize(
    ("budget", "rank"), [(COST_PER_RANK + LENGTHS, 1), (2 * COST_PER_RANK + LENGTHS - 1, 1), (4 * COST_PER_RANK, 3)]
)
def test_the_largest_rank_that_fits_beside_the_lengths(budget, rank):
    plan = MethodCase("dora", budget).make().plan()
    assert set(plan.ranks.values()) == {rank}
    assert plan.parameters == rank * COST_PER_RANK + LENGTHS <= budget < plan.parameters + COST_PER_RANK


def test_where_a_lora_just_fits_a_dora_is_a_gap():
    with pytest.raises(BudgetTooSmallError, match=r"budget 896 is below rank 1 on 12 modules .*\(1,344\)"):
        MethodCase("dora", COST_PER_RANK).make().plan()
    with pytest.raises(BudgetTooSmallError, match="below rank 3"):
        MethodCase("dora", 3 * COST_PER_RANK, {"rank": 3}).make().plan()


@pytest.mark.parametrize(("rank", "lora", "dora"), [(32, 0.83, 0.84), (16, None, 0.43)])
def test_the_published_shares_of_llama_7b(rank, lora, dora):
    """2402.09353, table 1: adapters on q, k, v, up and down, in per cent of all parameters, adapters included."""
    sizes = [(4096, 4096)] * 3 + [(4096, 11008), (11008, 4096)]
    modules = tuple(ModuleShape(f"{layer}.{i}", *size) for layer in range(32) for i, size in enumerate(sizes))
    plan = Dora(DoraConfig(rank=rank), CellContext(modules, 10**8, total_steps=1, seed=0)).plan()
    without = rank * sum(m.component_cost for m in modules)
    assert round(100 * plan.parameters / (6_738_415_616 + plan.parameters), 2) == dora
    assert lora is None or round(100 * without / (6_738_415_616 + without), 2) == lora
