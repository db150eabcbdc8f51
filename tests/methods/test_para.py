"""PARA in a cell: what is kept of the parent, and what the cell says of it."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adapad_ray.errors import BadRequestError
from adapad_ray.methods import METHODS
from adapad_ray.results import CellResult
from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_workspace
from adapad_ray.training.cell import CellRequest, run_cell

PARENT_RANK = 5


def case(budget=2 * COST_PER_RANK, **config):
    return MethodCase("para", budget, {"parent_rank": PARENT_RANK, **config})


def record(folder):
    return CellResult.model_validate_json((folder / "result.json").read_text())


def updates(folder):
    """Module → dense ΔW of an exported adapter."""
    stored = load_file(folder / "adapter_model.safetensors")
    names = [name.removesuffix(".lora_A.weight") for name in stored if name.endswith("lora_A.weight")]
    found = {name: stored[f"{name}.lora_B.weight"] @ stored[f"{name}.lora_A.weight"] for name in names}
    return {name.removeprefix("base_model.model."): update.double() for name, update in found.items()}


def logits(folder):
    return load_file(folder / "predictions.safetensors")["validation/final"].numpy()


def test_the_parent_is_a_plain_lora_of_the_parent_rank_that_never_sees_the_test_split():
    parent = record(case().parent(case().identity()))
    assert (parent.identity.stage, parent.identity.method) == ("parent", "lora")
    assert parent.final.parameters == parent.identity.budget == PARENT_RANK * COST_PER_RANK
    assert set(parent.final.ranks.values()) == {PARENT_RANK}
    assert parent.final.test == {}
    assert parent.identity.training == case().identity().training


@pytest.mark.parametrize("cut", ["global", "local", "uniform"])
def test_a_budget_of_the_parents_size_gives_the_parent_back(tmp_path, cut):
    whole = case(PARENT_RANK * COST_PER_RANK + 11, cut=cut)
    result = whole.run(tmp_path)
    assert result.final.parameters == PARENT_RANK * COST_PER_RANK
    assert result.budget_remainder == 11
    np.testing.assert_allclose(logits(tmp_path), logits(whole.parent(whole.identity())), rtol=0, atol=1e-5)


def test_the_global_cut_keeps_the_largest_singular_values_of_all_modules(tmp_path):
    """Against dense SVDs of the parent's updates, taken greedily; the kept part is each module's best approximation."""
    one = case()
    result = one.run(tmp_path)
    before, after = updates(one.parent(one.identity()) / "adapter"), updates(tmp_path / "adapter")
    values = {name: torch.linalg.svdvals(update)[:PARENT_RANK].tolist() for name, update in before.items()}
    left, ranks = one.budget, dict.fromkeys(before, 0)
    for name, _ in sorted(((n, v) for n in values for v in values[n]), key=lambda item: -item[1]):
        cost = sum(before[name].shape)
        if cost <= left:
            left, ranks[name] = left - cost, ranks[name] + 1
    assert result.final.ranks == {name: rank for name, rank in ranks.items() if rank}
    assert len(set(ranks.values())) > 1, "the pool is shared unevenly"
    for name, update in after.items():
        left_out = float((before[name] - update).norm())
        assert left_out == pytest.approx(float(torch.tensor(values[name][ranks[name] :]).norm()), rel=1e-4)


def test_the_cuts_keep_energy_in_the_order_of_their_freedom(tmp_path):
    kept = {}
    for cut in ("global", "uniform"):
        one = case(cut=cut)
        one.run(tmp_path / cut)
        kept[cut] = sum(float(u.square().sum()) for u in updates(tmp_path / cut / "adapter").values())
    assert kept["global"] > kept["uniform"]
    assert set(record(tmp_path / "uniform").final.ranks.values()) == {2}


def test_the_head_is_the_parents(tmp_path):
    one = case(700)
    one.run(tmp_path)
    mine = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    parents = load_file(one.parent(one.identity()) / "adapter" / "adapter_model.safetensors")
    heads = [name for name in parents if ".lora_" not in name]
    assert heads and all(torch.equal(mine[name], parents[name]) for name in heads)


def test_training_costs_what_the_parent_cost(tmp_path):
    one = case()
    result, parent = one.run(tmp_path), record(one.parent(one.identity()))
    for name in ("train_seconds", "train_flops", "steps", "lane_passes", "tokens", "peak_parameters"):
        assert getattr(result.cost, name) == getattr(parent.cost, name)
    assert result.train_loss == ()


def test_a_parent_with_a_broken_file_is_refused_and_nothing_is_written(tmp_path):
    one = case()
    folder = tmp_path / "parent"
    shutil.copytree(one.parent(one.identity()), folder)
    weights = folder / "adapter" / "adapter_model.safetensors"
    stored = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    next(iter(stored.values())).fill_(float("nan"))
    save_file(stored, weights)
    with pytest.raises(BadRequestError, match="not finite"):
        run_cell(CellRequest("x", one.identity(), tmp_path / "cell", "tiny", folder), tiny_workspace())
    assert not (tmp_path / "cell").exists()
    with pytest.raises(ValueError, match="cuts the adapter of another cell"):
        run_cell(CellRequest("x", one.identity(), tmp_path / "cell", "tiny"), tiny_workspace())


def test_the_export_stands_alone(tmp_path):
    case(700).run(tmp_path)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert len(config["target_modules"]) < 12, "modules that kept nothing are absent"
    assert config["lora_alpha"] == config["r"]


def test_per_parameter_is_for_the_global_cut():
    with pytest.raises(ValueError, match="per_parameter needs cut global, not uniform"):
        METHODS["para"].Config(cut="uniform", per_parameter=True)
