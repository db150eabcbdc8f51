"""Gradient checkpointing saves memory and changes no result."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from adapad_ray.errors import BadRequestError
from adapad_ray.models import linear_backbone
from adapad_ray.testing import COST_PER_RANK, MethodCase, assert_same_training, tiny_backbone, uninterrupted
from adapad_ray.training.passes.gradient_checkpointing import recomputed_layers


@pytest.mark.parametrize(
    "case",
    [
        MethodCase("lora"),
        MethodCase("adapad", 2 * COST_PER_RANK, {"local_steps": 3}),
        MethodCase("adapad", 1200, {"initial_rank": 0}),
        MethodCase("ard", 3 * COST_PER_RANK, {"unit": "module", "rank_interval": 2}),
        MethodCase("dora", 2500),
    ],
    ids=str,
)
def test_training_with_recomputed_layers_is_bitwise_the_same(case):
    other = MethodCase(case.method, case.budget, case.config, training={"gradient_checkpointing": True})
    assert_same_training(uninterrupted(other), uninterrupted(case))


def test_a_pass_keeps_less_and_the_model_is_left_as_it_was():
    model = tiny_backbone().model
    for parameter in model.bert.encoder.parameters():
        parameter.requires_grad_(True)
    tokens = torch.arange(5, 13).repeat(64, 1)

    def kept(on):
        sizes = []
        with recomputed_layers(model, on), saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            model(input_ids=tokens).logits.sum().backward()
        return sum(sizes)

    assert kept(True) < 0.5 * kept(False)
    assert not any(module.training for module in model.modules())


def test_a_model_without_such_layers_is_refused():
    model = linear_backbone(4, 3).model
    with (
        pytest.raises(
            BadRequestError, match=r"training\.gradient_checkpointing is true, but LinearModel has no layers"
        ),
        recomputed_layers(model),
    ):
        pass
    with recomputed_layers(model, on=False):
        pass


def test_dropout_and_recomputation_exclude_each_other():
    case = MethodCase("lora", config={"dropout": 0.1}, training={"gradient_checkpointing": True})
    with pytest.raises(BadRequestError, match=r"dropout is 0\.1 and training\.gradient_checkpointing is true"):
        case.trainer()
