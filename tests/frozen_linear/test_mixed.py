"""Products with frozen weights in bf16: what is computed, what stays as it is, and every way to adapt a layer."""

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from adapad_ray.frozen_linear.dispatch import frozen_linear
from adapad_ray.frozen_linear.mixed import MixedConv1D, MixedLinear, use_bf16_products
from adapad_ray.testing import MethodCase
from adapad_ray.testing.comparison import logits

BF16 = torch.bfloat16


@pytest.fixture(params=["Linear", "Conv1D"])
def layer(request):
    """A layer of 7 inputs and 5 outputs in fp32, and W₀ `[d_out, d_in]`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.Linear(7, 5) if request.param == "Linear" else Conv1D(5, 7)
        nn.init.normal_(made.bias)
    weight = made.weight.detach().clone()
    return nn.Sequential(made).requires_grad_(False), weight if request.param == "Linear" else weight.T


def test_a_mixed_layer_rounds_weight_and_input_to_bf16_and_nothing_else(layer):
    model, weight = layer
    bias, x = model[0].bias.clone(), torch.randn(2, 3, 7)
    use_bf16_products(model)
    product = x.to(BF16) @ weight.to(BF16).T
    assert torch.equal(model(x), product.float() + bias)
    assert model[0].bias.dtype == torch.float32 and torch.equal(model[0].bias, bias)


def test_in_inference_mode_a_mixed_layer_is_the_original(layer):
    model, _ = layer
    x = torch.randn(2, 3, 7)
    expected = model(x)
    use_bf16_products(model)
    with torch.inference_mode():
        assert torch.equal(model(x), expected)


def test_the_input_gradient_is_autograds(layer):
    model, _ = layer
    use_bf16_products(model)
    x = torch.randn(2, 3, 7, requires_grad=True)
    grad_y = torch.randn(2, 3, 5)
    (expected,) = torch.autograd.grad(model(x), x, grad_y)
    linear = frozen_linear(model[0], "0")
    assert torch.equal(linear.input_gradient(grad_y), expected)
    assert linear.dtype == torch.float32 and (linear.in_features, linear.out_features) == (7, 5)
    assert linear.parameter_count == 7 * 5 + 5


def test_a_weight_in_fp32_gets_its_gradient_through_the_cast(layer):
    model, _ = layer
    use_bf16_products(model)
    model[0].weight.requires_grad_(True)
    x = torch.randn(4, 7)
    model(x).sum().backward()
    gradient = model[0].weight.grad if isinstance(model[0], MixedLinear) else model[0].weight.grad.T
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, x.sum(0).expand(5, 7), rtol=2e-2, atol=2e-2)


def test_heads_and_tied_weights_stay_as_they_are():
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 7), "out": nn.Linear(7, 5), "head": nn.Linear(7, 2)})
    model["out"].weight = model["embedding"].weight
    use_bf16_products(model, skip=["head"])
    assert {type(model["out"]), type(model["head"])} == {nn.Linear}
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("lora", {}),
        ("adapad", {"initial_rank": 0, "local_steps": 2}),
        ("cp", {}),
        ("ard", {}),
        ("adalora", {}),
        ("dora", {}),
        ("full", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_cell_learns_resumes_bitwise_and_is_what_peft_loads(method, config, architecture, tmp_path):
    budget = None if method == "full" else 3000
    case = MethodCase(method, budget, config, architecture=architecture, precision="mixed")
    mixed = [m for m in case.backbone().model.modules() if isinstance(m, MixedLinear | MixedConv1D)]
    assert len(mixed) >= 8
    result = case.run(tmp_path / "whole")
    full_precision = MethodCase(method, budget, config, architecture=architecture).run(tmp_path / "full")
    assert result.train_loss[0] == pytest.approx(full_precision.train_loss[0], abs=0.05)
    assert result.train_loss != full_precision.train_loss

    trainer = case.trainer()
    trainer.start()
    trainer.run(stop_at=5)
    trainer.checkpoint().save(tmp_path / "resumed" / "checkpoint")
    case.run(tmp_path / "resumed")
    predictions = load_file(tmp_path / "whole/predictions.safetensors")
    resumed = load_file(tmp_path / "resumed/predictions.safetensors")
    assert all(torch.equal(resumed[name], value) for name, value in predictions.items())

    if method != "full":
        base = MethodCase(method, architecture=architecture).backbone().model
        loaded = logits(peft.PeftModel.from_pretrained(base, tmp_path / "whole" / str(result.final.adapter)))
        torch.testing.assert_close(torch.from_numpy(loaded), predictions["test/final"], rtol=0, atol=1e-5)
