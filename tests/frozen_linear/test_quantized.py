"""Quantised layers: what their forms read, and what is computed where a weight cannot be read."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adapad_ray.frozen_linear.dispatch import frozen_linear, is_linear
from adapad_ray.frozen_linear.quantized import (
    EightBitLinear,
    FourBitLinear,
    OpaqueLinear,
    TensorLinear,
    keep_products_exact,
    logical_size,
)
from adapad_ray.testing.packed_linear import PackedLinear


def four_bit(dense):
    nn = pytest.importorskip("bitsandbytes").nn
    layer = nn.Linear4bit(dense.in_features, dense.out_features, compute_dtype=torch.float32, quant_type="nf4")
    layer.load_state_dict(dense.state_dict())
    return layer.to("cpu"), FourBitLinear


def eight_bit(dense):
    nn = pytest.importorskip("bitsandbytes").nn
    layer = nn.Linear8bitLt(dense.in_features, dense.out_features, has_fp16_weights=False)
    layer.load_state_dict(dense.state_dict())
    return layer.to("cpu"), EightBitLinear


def by_torchao(config):
    def make(dense):
        quantization = pytest.importorskip("torchao.quantization")
        quantization.quantize_(dense, getattr(quantization, config)())
        return dense, TensorLinear

    return make


REAL = {
    "bitsandbytes nf4": four_bit,
    "bitsandbytes int8": eight_bit,
    "torchao int8": by_torchao("Int8WeightOnlyConfig"),
    "torchao fp8": by_torchao("Float8WeightOnlyConfig"),
}


@pytest.fixture
def dense():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(128, 64).requires_grad_(False)


def input_gradients(linear, x, grad_y):
    """Of the form, and of autograd through the module."""
    x = x.requires_grad_(True)
    (expected,) = torch.autograd.grad(linear.module(x), x, grad_y)
    return linear.input_gradient(grad_y), expected


@pytest.mark.parametrize("make", REAL.values(), ids=REAL)
def test_a_form_reads_what_its_module_computes_with(dense, make):
    original = dense.weight.clone()
    module, form = make(dense)
    module.requires_grad_(False).eval()
    keep_products_exact(module)
    linear = frozen_linear(module, "m")
    assert type(linear) is form and is_linear(module)
    assert (linear.in_features, linear.out_features, linear.parameter_count) == (128, 64, 128 * 64 + 64)
    assert logical_size(module.weight) == 128 * 64
    weight = linear.weight()
    assert weight.shape == (64, 128) and not torch.equal(weight, original)
    torch.testing.assert_close(weight, original, rtol=0, atol=0.02)
    x, grad_y = torch.randn(2, 3, 128), torch.randn(2, 3, 64)
    close = {"rtol": 0, "atol": 0.03} if form is EightBitLinear else {}  # it rounds x too
    torch.testing.assert_close(linear.forward(x), F.linear(x, weight.float(), module.bias.float()), **close)
    got, expected = input_gradients(linear, x, grad_y)
    torch.testing.assert_close(got, expected, rtol=1e-3 if form is EightBitLinear else 1e-5, atol=1e-3)


def test_four_bit_weights_are_not_repacked_by_a_pass_without_gradients(dense):
    """On a CPU with bf16 products, what is measured would else not be what was trained."""
    module, _ = four_bit(dense)
    module.requires_grad_(False).eval()
    keep_products_exact(module)
    before = frozen_linear(module, "m").weight().clone()
    x = torch.randn(5, 128)
    with torch.inference_mode():
        y = module(x)
    assert torch.equal(frozen_linear(module, "m").weight(), before)
    torch.testing.assert_close(y, F.linear(x, before, module.bias))


def test_a_layer_whose_weight_cannot_be_read_gives_its_gradient_by_its_own_backward_pass(dense):
    packed = PackedLinear(dense)
    linear = OpaqueLinear(packed)
    assert linear.weight() is None and linear.dtype == torch.float32 and linear.device == torch.device("cpu")
    assert (linear.in_features, linear.out_features, linear.parameter_count) == (128, 64, 128 * 64 + 64)
    x, grad_y = torch.randn(2, 3, 128), torch.randn(2, 3, 64)
    assert torch.equal(linear.forward(x), dense(x))
    assert torch.equal(linear.input_gradient(grad_y), grad_y @ dense.weight)
    got, expected = input_gradients(linear, x, grad_y)
    assert torch.equal(got, expected)
