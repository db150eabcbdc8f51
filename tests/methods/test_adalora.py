"""AdaLoRA runs through PEFT: its losses, its masks and its files, within a budget in parameters."""

from __future__ import annotations

import copy
import json
import warnings

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

from adapad_ray.adapters.lane import Lane
from adapad_ray.budget import BudgetTooSmallError, ModuleShape
from adapad_ray.methods import Adalora, CellContext
from adapad_ray.methods.adalora import AdaloraConfig, AdaloraModel
from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_backbone
from tests.distributed.threads import train_together
from tests.methods.reference import SQUARE, SquareCase, backbone_with_head, train

CASE = SquareCase("adalora", 2 * 8 * 64, {"lora_alpha": 3.0}, training={"learning_rate": 2e-2})
"""Two triplets a module at the end and three at the start, on modules of equal cost."""


def as_peft_would(case, start):
    """The same training with PEFT's own model, from the same initial values: `(losses, model)`."""
    settings = AdaloraConfig(**case.config)
    config = peft.AdaLoraConfig(
        init_r=3,
        target_r=2,
        lora_alpha=settings.lora_alpha * 3 / 2,  # alpha / rank of the budget, where PEFT divides by the initial rank
        tinit=2,
        tfinal=7,
        total_step=15,
        orth_reg_weight=settings.orth_reg_weight,
        target_modules=list(SQUARE),
        modules_to_save=["classifier"],
    )
    model = peft.get_peft_model(backbone_with_head(), config).eval()
    for name, layer in start.peft_layers.items():
        theirs = model.base_model.model.get_submodule(name)
        for matrix in ("lora_A", "lora_E", "lora_B"):
            getattr(theirs, matrix)["default"].data.copy_(getattr(layer, matrix)["default"].data)
    tuner = model.base_model  # the model around it would leave the penalty out, having no task type
    return train(tuner, learning_rate=2e-2, after_step=tuner.update_and_allocate), model


@pytest.fixture(scope="module")
def trained():
    trainer = CASE.trainer()
    trainer.start()
    losses, theirs = as_peft_would(CASE, trainer.adapted)
    trainer.run()
    return trainer, losses, theirs


def test_losses_are_those_of_pefts_adalora_with_its_penalty(trained):
    trainer, losses, _ = trained
    np.testing.assert_allclose(trainer.record.losses, losses, rtol=0, atol=1e-5)
    assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6]), "it learns, so the comparison says something"


def test_the_allocator_keeps_what_it_keeps_in_pefts_own_training(trained):
    trainer, _, theirs = trained
    pattern = theirs.peft_config["default"].rank_pattern
    assert trainer.adapted.config.rank_pattern == pattern
    ranks = [sum(mask) for mask in pattern.values()]
    assert sum(ranks) == 16 and len(set(ranks)) > 1, "as many as the budget holds, unevenly"
    for name, layer in trainer.adapted.peft_layers.items():
        expected = theirs.base_model.model.get_submodule(name).lora_E["default"]
        np.testing.assert_allclose(layer.lora_E["default"].detach(), expected.detach(), atol=1e-5)


def test_pefts_own_adapter_file_says_the_same_update(trained, tmp_path):
    """PEFT writes masks of booleans and keeps λ apart; the exported factors multiply to the same ΔW."""
    trainer, _, theirs = trained
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        copy.deepcopy(theirs).save_pretrained(tmp_path)  # it renames the masks in the model's own configuration
    stored, scale = load_file(tmp_path / "adapter_model.safetensors"), 3.0 * 3 / 2 / (3 + 1e-5)
    factors = trainer.adapted.factors(Lane.prefix(1))
    for name in SQUARE:
        a, e, b = (stored[f"base_model.model.{name}.lora_{matrix}"] for matrix in "AEB")
        if name in factors:
            ours_a, ours_b = factors[name]
            np.testing.assert_allclose((ours_b @ ours_a).detach(), b @ (a * e) * scale, atol=1e-5)
        else:
            assert a.numel() == 0


def test_the_peak_counts_lambda_and_what_is_pruned_later(trained):
    trainer, _, _ = trained
    assert trainer.record.peak_parameters == trainer.method.plan().peak_parameters == 8 * 3 * (64 + 1)
    assert trainer.adapted.deployed_parameters(Lane.prefix(1)) == 8 * 2 * 64


def test_lambda_counts_in_no_exported_file(tmp_path):
    result = CASE.run(tmp_path)
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {name.rpartition(".lora_")[2] for name in stored if ".lora_" in name} == {"A.weight", "B.weight"}
    assert result.final.parameters == 1024 and sum(result.final.ranks.values()) == 16
    side = json.loads((tmp_path / "adapter" / "adapad.json").read_text())
    assert side["scaling_folded_into_B"][SQUARE[0]] == pytest.approx(1.5, abs=1e-4)


@pytest.mark.parametrize("budget", [96, 500, 2 * COST_PER_RANK, 3 * COST_PER_RANK - 1, 20_000])
def test_where_modules_differ_in_size_the_budget_holds_and_little_of_it_is_left(budget):
    trainer = MethodCase("adalora", budget).trainer()
    trainer.start()
    trainer.run()
    deployed = trainer.adapted.deployed_parameters(Lane.prefix(1))
    assert budget - 96 < deployed <= budget, "the next best component may be one of the largest, which cost 96"
    assert 12 * trainer.adapted.peft_layers[SQUARE[0]].r["default"] * 64 > trainer.method._target


def test_the_final_allocation_keeps_the_best_triplets_that_the_budget_holds():
    trainer = MethodCase("adalora", 1000).trainer()
    trainer.start()
    adapted, method = trainer.adapted, trainer.method
    trainer.run(stop_at=method._end - 1)
    scores = adapted.scores()
    triplets = [(float(score), m.component_cost, m.name) for m in adapted.shapes for score in scores[m.name]]
    kept, spent = dict.fromkeys(adapted.peft_layers, 0), 0
    for _, cost, name in sorted(triplets, reverse=True):
        if spent + cost > 1000:
            break
        kept[name], spent = kept[name] + 1, spent + cost
    trainer.run(stop_at=method._end)
    assert adapted.ranks == kept and adapted.deployed_parameters(Lane.prefix(1)) == spent


def test_nothing_is_deployable_before_the_final_allocation():
    trainer = CASE.trainer()
    trainer.start()
    trainer.run(stop_at=trainer.method._end - 3)
    assert trainer.adapted.deployed_parameters(Lane.prefix(1)) == 0 and trainer.adapted.factors(Lane.prefix(1)) == {}
    assert 16 < sum(trainer.adapted.ranks.values()) < 24, "the schedule is on its way from 24 to 16"


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_the_shortest_trainings_allocate_too(steps):
    case = MethodCase("adalora", training={"epochs": steps / 6})
    trainer = case.trainer()
    trainer.start()
    trainer.run()
    assert trainer.total_steps == steps
    assert 0 < trainer.adapted.deployed_parameters(Lane.prefix(1)) <= 2 * COST_PER_RANK


def test_the_schedule_is_in_shares_of_the_real_number_of_steps():
    case = MethodCase("adalora", config={"allocation_start": 0.25, "allocation_end": 0.75})
    config = case.trainer().adapted.config
    assert (config.tinit, config.total_step - config.tfinal, config.total_step) == (4, 11, 15)


def test_averages_of_the_allocator_travel_with_the_state():
    trainer = CASE.trainer()
    trainer.start()
    trainer.run(stop_at=4)
    state = trainer.adapted.state()
    averages = [name for name in state if name.startswith("allocator|")]
    assert len(averages) == 2 * 3 * 8
    other = CASE.trainer().adapted
    other.rebuild(trainer.adapted.structure())
    other.load_state({name: tensor.clone() for name, tensor in state.items()})
    for kind in ("exp_avg_ipt", "exp_avg_unc"):
        ours, theirs = getattr(trainer.adapted.allocator, kind), getattr(other.allocator, kind)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_budget_below_the_largest_component_is_a_gap():
    with pytest.raises(BudgetTooSmallError, match=r"budget 95 is below one component on .*dense \(96\)"):
        MethodCase("adalora", 95).make().plan()


def test_settings_are_validated():
    with pytest.raises(ValueError, match=r"allocation_end 0.1 must come after allocation_start 0.12"):
        AdaloraConfig(allocation_end=0.1)


def test_the_published_start_is_half_again_the_target():
    """DeBERTaV3-base, six linears in 12 layers: the paper heads for 144 triplets, mean rank 2, from 1.5 as many."""
    sizes = [(768, 768)] * 4 + [(768, 3072), (3072, 768)]
    modules = tuple(ModuleShape(f"{layer}.{i}", *size) for layer in range(12) for i, size in enumerate(sizes))
    method = Adalora(AdaloraConfig(), CellContext(modules, 2 * 165_888, total_steps=1000, seed=0))
    assert (method._target, method._initial_rank * 72) == (144, 216)
    assert method.plan().peak_parameters == 3 * (165_888 + 72)


def test_a_budget_above_everything_is_not_reached_because_one_triplet_is_always_pruned():
    trainer = MethodCase("adalora", 100_000).trainer()
    trainer.start()
    trainer.run()
    deployed = trainer.adapted.deployed_parameters(Lane.prefix(1))
    everything = 32 * COST_PER_RANK
    assert everything - 96 <= deployed <= trainer.method.plan().parameters == everything - 64


def test_the_model_is_the_tuner_of_peft():
    adapted = CASE.trainer().adapted
    assert isinstance(adapted, AdaloraModel) and type(adapted.tuner) is peft.AdaLoraModel
    assert type(adapted.allocator).__module__.startswith("peft.")
    adapted.detach()
    assert not hasattr(adapted.model, "peft_config")
    assert str(adapted.model) == str(tiny_backbone().model)


def test_two_workers_that_share_out_the_batch_allocate_as_one(trained):
    """The penalty counts once, and both allocators see the gradient of the whole batch."""
    alone, _, _ = trained
    for trainer in train_together(CASE, 2):
        np.testing.assert_allclose(trainer.record.losses, alone.record.losses, rtol=0, atol=1e-5)
        assert trainer.adapted.kept == alone.adapted.kept
