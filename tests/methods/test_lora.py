"""What LoRA's settings mean, against PEFT's own (2106.09685, 2312.03732)."""

import math
import re

import peft
import pytest
import torch
from pydantic import ValidationError

from adapad_ray.budget import BudgetTooSmallError, parse_budget
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.lora import LoraConfig
from adapad_ray.models.target_modules import target_modules
from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_backbone, tiny_task

PATTERN = {"layer.0.*query": 5, "value": 3, r"layer\.[01]\.output.dense": 1, "output.dense": 2}


def ranks_of(trainer):
    return {name: rank for name, rank in trainer.method.plan().ranks.items() if rank}


@pytest.mark.parametrize("rslora", [False, True])
def test_ranks_scales_and_logits_are_pefts(rslora):
    """The same configuration given to PEFT, with the same random A and B in it."""
    config = {"rank": 2, "rank_pattern": PATTERN, "rslora": rslora, "lora_alpha": 3.0}
    trainer = MethodCase("lora", 4 * COST_PER_RANK, config).trainer()
    trainer.start()
    theirs = peft.LoraConfig(
        r=2,
        lora_alpha=3,
        rank_pattern=PATTERN,
        use_rslora=rslora,
        target_modules=list(trainer.adapted.layers),
    )
    model = peft.get_peft_model(tiny_backbone().model, theirs).eval()
    ranks = {}
    with torch.no_grad():
        for name, layer in trainer.adapted.layers.items():
            (block,), other = layer.active(), model.get_submodule(f"base_model.model.{name}")
            block.b.normal_(generator=torch.Generator().manual_seed(len(ranks)))
            other.lora_A["default"].weight.copy_(block.a)
            other.lora_B["default"].weight.copy_(block.b.T)
            ranks[name] = other.r["default"]
            assert layer.scaling == pytest.approx(other.scaling["default"], rel=1e-12)
        for name, head in trainer.adapted.heads.items():
            head.copies["1"].load_state_dict(model.get_submodule(f"base_model.model.{name}").state_dict())
    assert ranks_of(trainer) == ranks and set(ranks.values()) == {1, 2, 3, 5}
    batch = tiny_task().splits["test"].batch(range(8), 0)
    batch.pop("labels")
    trainer.adapted.use(trainer.method.lanes(0)[0])
    ours, expected = trainer.adapted.model(**batch).logits, model(**batch).logits
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_modules_that_the_pattern_does_not_name_share_what_is_left():
    method = MethodCase("lora", 2500, {"rank_pattern": {"query": 4, "key": 1}}).make()
    plan, costs = method.plan(), {m.name: m.component_cost for m in method.context.modules}
    others = {rank for name, rank in plan.ranks.items() if not name.endswith(("query", "key"))}
    assert {rank for name, rank in plan.ranks.items() if name.endswith("query")} == {4}
    assert len(others) == 1
    left = 2500 - plan.parameters
    assert 0 <= left < sum(cost for name, cost in costs.items() if not name.endswith(("query", "key")))
    assert plan.parameters == sum(rank * costs[name] for name, rank in plan.ranks.items())


def test_a_pattern_that_names_every_module_is_taken_as_it_is():
    plan = MethodCase("lora", 2 * COST_PER_RANK, {"rank_pattern": {".*": 1}}).make().plan()
    assert plan.parameters == COST_PER_RANK and set(plan.ranks.values()) == {1}


@pytest.mark.parametrize(
    ("budget", "config", "message"),
    [
        (1280 - 1, {"rank_pattern": {"query": 4}}, "rank_pattern on 2 modules and rank 1 on 10 modules (1,280)"),
        (1792, {"rank_pattern": {"query": 4}, "rank": 2}, "rank_pattern on 2 modules and rank 2 on 10 modules (2,048)"),
        (1791, {"rank_pattern": {".*": 2}}, "rank_pattern on 12 modules (1,792)"),
        (1791, {"rank": 2}, "rank 2 on 12 modules (1,792)"),
    ],
)
def test_ranks_above_the_budget_are_a_gap(budget, config, message):
    with pytest.raises(BudgetTooSmallError, match=re.escape(f"budget {budget:,} is below {message}")):
        MethodCase("lora", budget, config).make().plan()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank_pattern": {"nothing": 2}}, "'nothing' applies to none"),
        ({"rank_pattern": {"query": 2, "0.attention.self.query": 1}}, "'0.attention.self.query' applies to none"),
        ({"rank_pattern": {"query": 33}}, "rank 33 is above the dimension 32 of bert.encoder.layer.0"),
    ],
)
def test_a_pattern_that_cannot_be_met_is_refused(config, message):
    with pytest.raises(BadRequestError, match=message) as refused:
        MethodCase("lora", 10 * COST_PER_RANK, config).make().plan()
    assert not isinstance(refused.value, BudgetTooSmallError)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank_pattern": {"que[": 2}}, "'que\\[', which is not a regular expression"),
        ({"rank_pattern": {"query": 0}}, "greater than or equal to 1"),
        ({"rank_pattern": {"q" * 1001: 1}}, "1,001 characters"),
        ({"allocation": "random", "rank": 2}, "remove rank"),
        ({"allocation": "random", "rank_pattern": {"query": 2}}, "remove rank"),
    ],
)
def test_settings_that_mean_nothing_are_refused(config, message):
    with pytest.raises(ValidationError, match=message):
        LoraConfig(**config)


def test_rslora_divides_by_the_root_of_the_mean_rank_where_ranks_are_drawn():
    method = MethodCase("lora", 4 * COST_PER_RANK, {"allocation": "random", "rslora": True, "lora_alpha": 3.0}).make()
    assert list(method.scales().values()) == pytest.approx([3 / math.sqrt(4)] * 12)


SQUARE = tuple(
    m.name for m in target_modules(tiny_backbone().model, ["query", "key", "value", "attention.output.dense"])
)
"""Eight modules of 32 × 32, on which a rank-1 component has 64 parameters."""


@pytest.mark.parametrize(
    ("method", "config", "components"),
    [
        ("lora", {}, 16),
        ("lora", {"allocation": "random"}, 20),
        ("adapad", {"local_steps": 1}, 20),
        ("adapad", {"initial_rank": 0}, 20),
        ("increlora", {}, 20),
        ("dylora", {}, 16),
    ],
)
def test_a_budget_of_20_ranks_is_20_rank_1_components(method, config, components, tmp_path):
    """All of them where ranks may differ, and the largest uniform rank where they may not."""
    modules = target_modules(tiny_backbone().model, SQUARE)
    budget = parse_budget("20 ranks", modules=modules, backbone_parameters=1)
    assert budget == 20 * 64
    result = MethodCase(method, budget, config).run(tmp_path, target_modules=SQUARE)
    assert sum(result.final.ranks.values()) == components
    assert result.final.parameters == components * 64
