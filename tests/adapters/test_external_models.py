"""Layers that PEFT injects are found by their full path, seeded, trained in fp32 and removed afterwards."""

from __future__ import annotations

import warnings

import peft
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from adapad_ray.adapters.external_models import InjectedModel
from adapad_ray.adapters.lane import Lane
from adapad_ray.budget import ModuleShape
from adapad_ray.testing import MethodCase, tiny_backbone


def lora(model, *names):
    shapes = [ModuleShape(name, *reversed(model.get_submodule(name).weight.shape)) for name in names]
    return InjectedModel(model, shapes, ("classifier",), peft.LoraConfig(r=2))


def test_a_path_is_not_taken_for_the_end_of_another():
    """`output.dense` ends both a feed-forward and an attention path; PEFT's lists of names match suffixes."""
    model = tiny_backbone().model
    encoder = model.get_submodule("bert.encoder.layer.0")
    adapted = lora(encoder_of(encoder), "output.dense")
    assert isinstance(encoder.output.dense, peft.tuners.lora.Linear)
    assert type(encoder.attention.output.dense) is nn.Linear
    assert adapted.ranks == {"output.dense": 2}


def encoder_of(layer):
    """The layer with a head beside it, so that its module paths are short."""
    layer.classifier = nn.Linear(32, 2)
    return layer


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_dense_and_transposed_modules_of_one_model_are_both_computed_rightly(use_dora):
    model = nn.Module()
    model.dense, model.transposed, model.classifier = nn.Linear(6, 4), Conv1D(4, 6), nn.Linear(4, 2)
    shapes = [ModuleShape(name, 6, 4) for name in ("dense", "transposed")]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="fan_in_fan_out")
        adapted = InjectedModel(model, shapes, ("classifier",), peft.LoraConfig(r=2, use_dora=use_dora))
    adapted.use(Lane.joint(1))
    assert adapted.fan_in_fan_out
    x = torch.randn(3, 6)
    for name, layer in adapted.peft_layers.items():
        for p in adapted.trained().values():
            nn.init.normal_(p)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        weight = adapted.linears[name].weight() + layer.scaling["default"] * b @ a
        if use_dora:
            weight = weight / weight.norm(dim=1, keepdim=True) * layer.lora_magnitude_vector["default"].weight[:, None]
        torch.testing.assert_close(layer(x), F.linear(x, weight, layer.get_base_layer().bias), rtol=1e-4, atol=1e-4)


def test_attaching_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    lora(tiny_backbone().model, "bert.encoder.layer.1.output.dense")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_block_learns_in_a_live_lane_only():
    adapted = lora(tiny_backbone().model, "bert.encoder.layer.1.output.dense")
    adapted.add_head(1)
    learning, frozen = adapted.parameters(Lane.joint(1)), adapted.parameters(Lane.prefix(1))
    assert [tuple(p.shape) for p in learning] == [(2, 64), (32, 2), (2, 32), (2,)]
    assert [tuple(p.shape) for p in frozen] == [(2, 32), (2,)]
    assert all(p.requires_grad for p in learning)
    assert {id(p) for p in adapted.named_parameters().values()} == {id(p) for p in learning}


def test_detaching_gives_back_the_very_same_modules():
    model = tiny_backbone().model
    modules, parameters, attributes = dict(model.named_modules()), dict(model.named_parameters()), set(vars(model))
    adapted = lora(model, "bert.encoder.layer.1.output.dense", "bert.encoder.layer.0.attention.self.query")
    adapted.add_head(1)
    adapted.detach()
    assert dict(model.named_modules()) == modules and set(vars(model)) == attributes
    assert all(model.get_parameter(name) is p for name, p in parameters.items())


@pytest.mark.parametrize("method", ["adalora", "dora"])
def test_dropout_is_drawn_from_the_lanes_generator(method):
    adapted = started(method, {"dropout": 0.5}).adapted
    for p in adapted.trained().values():
        nn.init.normal_(p)  # an update that dropout can be seen in
    lane = Lane.joint(1)

    def outputs(seed):
        adapted.use(lane, None if seed is None else torch.Generator().manual_seed(seed))
        with torch.no_grad():
            return adapted.model(input_ids=torch.arange(12).view(2, 6)).logits

    assert torch.equal(outputs(1), outputs(1)) and not torch.equal(outputs(1), outputs(2))
    assert not torch.equal(outputs(1), outputs(None)) and torch.equal(outputs(None), outputs(None))


@pytest.mark.parametrize("method", ["adalora", "dora"])
def test_on_a_half_precision_backbone_the_layers_start_as_no_update_and_learn_in_fp32(method):
    backbone, made = tiny_backbone(), MethodCase(method, 3000).make()
    backbone.model.to(torch.bfloat16)
    ids = torch.arange(12).view(2, 6)
    with torch.no_grad():
        expected = backbone.model.get_submodule("bert")(ids).last_hidden_state
        adapted = made.adapt(backbone.model, backbone.head_modules)
        made.build(torch.Generator().manual_seed(0))
        adapted.use(Lane.joint(1))
        assert torch.equal(adapted.model.get_submodule("bert")(ids).last_hidden_state, expected)
    assert {p.dtype for p in adapted.named_parameters().values()} == {torch.float32}
    others = [p for p in adapted.model.parameters() if id(p) not in set(map(id, adapted.named_parameters().values()))]
    assert not any(p.requires_grad for p in others)


@pytest.mark.parametrize("method", ["adalora", "dora"])
def test_no_dropout_is_no_layer_of_its_own(method):
    layers = started(method, {}).adapted.peft_layers.values()
    assert all(type(layer.lora_dropout["default"]) is nn.Identity for layer in layers)


def started(method, config):
    trainer = MethodCase(method, 3000, config).trainer()
    trainer.start()
    return trainer
