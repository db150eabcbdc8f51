"""Backbones in half precision: gradients neither vanish nor overflow, and adapters learn in fp32."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_workspace
from adapad_ray.training.passes.precision import LARGEST_SCALE, scaled_backward


def chain(factor, weight=1.0):
    """A parameter of fp32 behind an operation in fp16 that multiplies gradients by `factor`, and the loss."""
    parameter = nn.Parameter(torch.full((4,), weight))
    half = parameter.half() * torch.tensor(factor, dtype=torch.float16)
    return parameter, half.float().sum()


def test_a_gradient_below_the_smallest_number_of_fp16_survives():
    parameter, loss = chain(1.0)
    (loss * 1e-8).backward()
    assert not parameter.grad.any(), "unscaled it is rounded to nothing"
    parameter, loss = chain(1.0)
    scaled_backward(loss * 1e-8, [parameter])
    torch.testing.assert_close(parameter.grad, torch.full((4,), 1e-8), rtol=1e-3, atol=0)


def test_a_gradient_that_overflows_is_found_with_a_smaller_scale():
    parameter, loss = chain(100.0)
    assert torch.finfo(torch.float16).max < 100.0 * LARGEST_SCALE
    scaled_backward(loss, [parameter])
    assert torch.equal(parameter.grad, torch.full((4,), 100.0))


def test_gradients_are_added_to_what_is_there_and_scaling_is_exact():
    parameter, loss = chain(3.0)
    parameter.grad = torch.ones(4)
    untouched = nn.Parameter(torch.ones(2))
    scaled_backward(loss, [parameter, untouched])
    assert torch.equal(parameter.grad, torch.full((4,), 4.0)) and untouched.grad is None


def test_what_is_not_finite_without_scaling_is_told():
    parameter, loss = chain(60_000.0, weight=2.0)  # the product itself overflows
    scaled_backward(loss, [parameter])
    assert not torch.isfinite(loss) and parameter.grad is not None
    with pytest.raises(AssertionError):
        torch.testing.assert_close(parameter.grad, torch.zeros(4))


@pytest.mark.parametrize(
    "case", [MethodCase("lora"), MethodCase("adapad", 3 * COST_PER_RANK, {"local_steps": 2})], ids=str
)
def test_adapters_of_a_fp16_backbone_learn_as_with_fp32(case, tmp_path):
    workspace = tiny_workspace(case.pooling)
    workspace.backbone.model.to(torch.float16)
    result = case.run(tmp_path / "fp16", workspace)
    reference = case.run(tmp_path / "fp32")
    logits = [load_file(tmp_path / dtype / "predictions.safetensors")["test/final"] for dtype in ("fp16", "fp32")]
    torch.testing.assert_close(*logits, atol=0.05, rtol=0)
    assert result.final.parameters == reference.final.parameters
    stored = load_file(tmp_path / "fp16" / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


@pytest.mark.parametrize(
    "case",
    [
        MethodCase("lora"),
        MethodCase("adapad", config={"initial_rank": 0}),
        MethodCase("adapad", 3 * COST_PER_RANK, {"local_steps": 2}, pooling="own"),
        MethodCase("adalora"),
        MethodCase("dora", 3 * COST_PER_RANK),
    ],
    ids=str,
)
def test_adapters_and_heads_of_a_bf16_backbone_learn_in_fp32(case, tmp_path):
    workspace = tiny_workspace(case.pooling)
    workspace.backbone.model.to(torch.bfloat16)
    training = {**case.identity().training, "epochs": 8}
    result = case.run(tmp_path, dataclasses.replace(workspace), training=training)
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    reference = case.run(tmp_path / "fp32", training=training)
    assert result.final.validation["accuracy"] == pytest.approx(reference.final.validation["accuracy"], abs=0.26)
