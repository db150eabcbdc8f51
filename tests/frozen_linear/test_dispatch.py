"""Only classes that are known to compute W₀x + bias carry adapters; the others are rejected by name."""

import pytest
import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from adapad_ray.adapters.adapted_linear import AdaptedLinear
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.budget import ModuleShape
from adapad_ray.errors import BadRequestError
from adapad_ray.frozen_linear import dispatch
from adapad_ray.frozen_linear.dense import DenseLinear
from adapad_ray.frozen_linear.dispatch import frozen_linear, is_linear, is_supported


class Doubled(nn.Linear):
    """A subclass whose forward adds something."""

    def forward(self, x):
        return 2 * super().forward(x)


class Packed(nn.Module):
    """A quantised layer that is no `nn.Linear`."""

    in_features, out_features = 4, 4


class Experts(nn.Module):
    """The matrices of two experts in one parameter."""

    def __init__(self):
        super().__init__()
        self.gate_up = nn.Parameter(torch.zeros(2, 4, 4))


class PackedTensor(torch.Tensor):
    """A quantised weight inside an ordinary module."""


def with_packed_weight():
    module = nn.Linear(4, 4)
    module.weight = nn.Parameter(torch.zeros(4, 4).as_subclass(PackedTensor), requires_grad=False)
    return module


UNSUPPORTED = {
    "a subclass": (Doubled(4, 4), "Doubled"),
    "a weight read without a call": (NonDynamicallyQuantizableLinear(4, 4), "NonDynamicallyQuantizableLinear"),
    "quantised": (Packed(), "Packed"),
    "experts": (Experts(), "Experts"),
    "a quantised weight": (with_packed_weight(), "Linear with a weight of class PackedTensor"),
}


@pytest.mark.parametrize(("module", "name"), UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_an_unsupported_linear_layer_is_rejected_by_the_name_of_its_class(module, name):
    assert is_linear(module) and not is_supported(module)
    with pytest.raises(BadRequestError) as rejected:
        frozen_linear(module, "layer.0.query")
    assert str(rejected.value) == (
        f"module layer.0.query is of class {name}, which cannot carry an adapter (supported are Linear, FalconLinear, "
        "Conv1D, Linear4bit, Linear8bitLt, Int8Tensor, Float8Tensor): choose target_modules without it"
    )


@pytest.mark.parametrize("module", [nn.Linear(4, 4), Conv1D(4, 4)], ids=lambda m: type(m).__name__)
def test_a_supported_layer_is_linear(module):
    assert is_linear(module) and is_supported(module)


@pytest.mark.parametrize(
    "module", [nn.Embedding(4, 4), nn.LayerNorm(4), nn.Conv1d(4, 4, 2), nn.Sequential(nn.Linear(4, 4))], ids=str
)
def test_embeddings_norms_convolutions_and_containers_are_not_linear(module):
    assert not is_linear(module) and not is_supported(module)


def test_a_new_form_is_one_class_and_one_entry(monkeypatch):
    """What a quantised layer will need: nothing else names module classes."""

    class PackedLinear(DenseLinear):
        def forward(self, x):
            return x + 1

        def input_gradient(self, grad_y):
            return grad_y

        def weight(self):
            return None

        in_features = out_features = 4
        dtype, device = torch.float32, torch.device("cpu")

        @classmethod
        def accepts(cls, module):
            return True

    monkeypatch.setattr(dispatch, "FORMS", {**dispatch.FORMS, f"{__name__}.Packed": PackedLinear})
    layer = AdaptedLinear(Packed(), ModuleShape("m", 4, 4), 1.0)
    x = torch.randn(3, 4)
    assert torch.equal(layer(x), x + 1)


def test_a_rejected_module_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(4, 4), Doubled(4, 4))
    before = dict(model.named_modules())
    with pytest.raises(BadRequestError, match="module 1 is of class Doubled"):
        AdaptedModel(model, [ModuleShape("0", 4, 4), ModuleShape("1", 4, 4)], [])
    assert dict(model.named_modules()) == before
