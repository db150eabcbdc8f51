"""Every method over quantised backbones: those of bitsandbytes and torchao, and one whose weights cannot be read."""

import peft
import pytest
import torch
from safetensors.torch import load_file

from adapad_ray.errors import BadRequestError
from adapad_ray.frozen_linear import dispatch
from adapad_ray.frozen_linear.quantized import OpaqueLinear
from adapad_ray.methods import METHODS
from adapad_ray.methods.plan import QuantizedBackboneError
from adapad_ray.models import find_recipe, load_backbone
from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_backbone, tiny_task, word_tokenizer
from adapad_ray.testing.comparison import logits
from adapad_ray.testing.packed_linear import PackedLinear, pack_layers
from adapad_ray.training.cell import Workspace

PACKAGES = {"nf4": "bitsandbytes", "int8": "torchao"}
NEEDS_A_KNOWN_CLASS = {"adalora": "PEFT", "dora": "PEFT", "gora": "the weight"}
"""What such a method needs of the layers."""
TRAINED = [name for name in METHODS if name != "full"]


def case_of(method):
    budget = None if method == "head_only" else 3 * COST_PER_RANK
    config = {"adapad": {"local_steps": 2}, "para": {"parent_rank": 4}}.get(method, {})
    return MethodCase(method, budget, config, training={"epochs": 1})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The checkpoint of `tiny_backbone`."""
    folder = tmp_path_factory.mktemp("quantized")
    tiny_backbone().model.bert.save_pretrained(folder)
    word_tokenizer(["a"]).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", params=PACKAGES)
def quantized(request, folder):
    """The quantisation, and a recipe with it."""
    pytest.importorskip(PACKAGES[request.param])
    return request.param, find_recipe(folder, 2, pooling="mean", quantization=request.param)


@pytest.mark.parametrize("method", TRAINED)
def test_a_cell_over_a_quantised_backbone_is_what_peft_loads_on_it_and_on_the_dense_one(
    method, quantized, folder, tmp_path
):
    kind, recipe = quantized
    result = case_of(method).run(tmp_path, Workspace(recipe.load(), tiny_task()), quantization=kind)
    dense = case_of(method).run(tmp_path / "dense")
    if method != "para":  # its parent, which trains, is the one of the dense backbone here
        assert 0 < abs(result.train_loss[0] - dense.train_loss[0]) < 0.3
    if result.final.adapter is None:
        return
    ours = load_file(tmp_path / "predictions.safetensors")["test/final"]
    loaded = peft.PeftModel.from_pretrained(recipe.load().model, tmp_path / result.final.adapter)
    torch.testing.assert_close(torch.from_numpy(logits(loaded)), ours, rtol=0, atol=1e-3)
    base = load_backbone(folder, 2, pooling="mean").model
    on_dense = torch.from_numpy(logits(peft.PeftModel.from_pretrained(base, tmp_path / result.final.adapter)))
    assert 0 < (on_dense - ours).abs().max() < (1.0 if kind == "nf4" else 0.1)


@pytest.mark.parametrize("kind", ["nf4", "int8", "fp8"])
def test_full_fine_tuning_of_quantised_weights_is_refused_before_training(kind):
    with pytest.raises(QuantizedBackboneError, match=f"which cannot learn in {kind}"):
        MethodCase("full", None).make(quantization=kind).plan()


@pytest.fixture
def packed(monkeypatch):
    """A backbone whose layers have no weight to read, and a dense one that computes the same."""
    name = f"{PackedLinear.__module__}.{PackedLinear.__qualname__}"
    monkeypatch.setattr(dispatch, "FORMS", {**dispatch.FORMS, name: OpaqueLinear})
    backbone, dense = tiny_backbone(), tiny_backbone()
    pack_layers(backbone)
    pack_layers(dense)
    for path, module in list(dense.model.named_modules()):
        if isinstance(module, PackedLinear):
            layer = torch.nn.Linear(module.in_features, module.out_features).requires_grad_(False)
            layer.weight.data, layer.bias = module.codes * module.scales, module.bias
            dense.model.set_submodule(path, layer)
    return backbone, dense


@pytest.mark.parametrize("method", [name for name in TRAINED if name not in NEEDS_A_KNOWN_CLASS])
def test_a_method_trains_over_weights_that_cannot_be_read_as_over_the_same_dense_ones(method, packed, tmp_path):
    ours, dense = (
        case_of(method).run(tmp_path / str(i), Workspace(backbone, tiny_task())) for i, backbone in enumerate(packed)
    )
    assert ours.train_loss == pytest.approx(dense.train_loss, abs=1e-5)
    assert ours.final.parameters == dense.final.parameters
    assert ours.final.validation_loss == pytest.approx(dense.final.validation_loss, abs=1e-4)


@pytest.mark.parametrize("method", NEEDS_A_KNOWN_CLASS)
def test_a_method_that_cannot_train_over_an_unknown_class_names_it(method, packed, tmp_path):
    with pytest.raises((BadRequestError, ValueError), match="PackedLinear"):
        case_of(method).run(tmp_path, Workspace(packed[0], tiny_task()))
