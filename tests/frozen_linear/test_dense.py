"""Every supported class computes W₀x + bias, and its form reads what the module holds."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.falcon.modeling_falcon import FalconLinear
from transformers.pytorch_utils import Conv1D

from adapad_ray.frozen_linear.dense import DenseLinear, TransposedLinear
from adapad_ray.frozen_linear.dispatch import FORMS, frozen_linear

MODULES = {
    "Linear": lambda: nn.Linear(7, 5),
    "Linear without bias": lambda: nn.Linear(7, 5, bias=False),
    "FalconLinear": lambda: FalconLinear(7, 5),
    "FalconLinear without bias": lambda: FalconLinear(7, 5, bias=False),
    "Conv1D": lambda: Conv1D(5, 7),
}


@pytest.fixture(params=MODULES)
def module(request):
    """A module of 7 inputs and 5 outputs in fp64, with a bias other than zero where there is one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = MODULES[request.param]().double().requires_grad_(False)
        if made.bias is not None:
            nn.init.normal_(made.bias)
    return made


def test_every_supported_class_is_tried_here():
    tried = {type(make()) for make in MODULES.values()}
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in tried}
    dense = {name for name, form in FORMS.items() if issubclass(form, DenseLinear)}
    assert names == {name for name in dense if ".mixed." not in name}, "those of mixed.py are in test_mixed.py"


def test_the_module_computes_what_the_weight_and_the_bias_say_and_nothing_else(module):
    linear = frozen_linear(module, "m")
    x = torch.randn(2, 3, 7, dtype=torch.float64)
    assert linear.weight().shape == (5, 7)
    torch.testing.assert_close(linear.forward(x), F.linear(x, linear.weight(), module.bias))


def test_the_input_gradient_is_autograds(module):
    linear = frozen_linear(module, "m")
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    grad_y = torch.randn(2, 3, 5, dtype=torch.float64)
    (expected,) = torch.autograd.grad(module(x), x, grad_y)
    torch.testing.assert_close(linear.input_gradient(grad_y), expected)


def test_sizes_count_dtype_and_device_are_the_modules(module):
    linear = frozen_linear(module, "m")
    assert (linear.in_features, linear.out_features) == (7, 5)
    assert linear.parameter_count == 35 + (0 if module.bias is None else 5)
    assert linear.dtype == torch.float64 and linear.device == torch.device("cpu")
    assert linear.fan_in_fan_out == (type(module) is Conv1D)


def test_a_weight_that_is_replaced_later_is_the_one_that_is_read():
    """Workers open a shared backbone by filling in its parameters."""
    module = nn.Linear(7, 5)
    linear = frozen_linear(module, "m")
    module.weight = nn.Parameter(torch.ones(5, 7), requires_grad=False)
    assert torch.equal(linear.weight(), torch.ones(5, 7))


def test_the_forms_are_those_of_the_storage():
    assert type(frozen_linear(nn.Linear(2, 3), "m")) is DenseLinear
    assert type(frozen_linear(Conv1D(3, 2), "m")) is TransposedLinear
