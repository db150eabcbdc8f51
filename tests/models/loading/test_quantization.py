"""What is quantised in a backbone, what stays dense, and which requests are refused."""

import importlib
import importlib.util
import json

import pandas as pd
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

import adapad_ray as ar
from adapad_ray.errors import BadRequestError
from adapad_ray.models import CAUSAL, SEQUENCES, find_recipe, load_backbone
from adapad_ray.models.loading import quantization
from adapad_ray.models.loading.quantization import reject_second_quantization
from adapad_ray.models.shape_pass import pass_shapes
from adapad_ray.models.target_modules import layer_prefixes, target_modules
from adapad_ray.tasks import TYPES
from adapad_ray.training.cell.evaluation import ModelPasses
from tests.architectures import DECODER, ENCODER
from tests.models.tiny_configs import words


@pytest.fixture
def folder(tmp_path):
    def save(model):
        model.save_pretrained(tmp_path)
        words().save_pretrained(tmp_path)
        return str(tmp_path)

    return save


def encoder():
    return transformers.RobertaModel(transformers.RobertaConfig(**ENCODER | {"max_position_embeddings": 40}))


def decoder():
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER))


@pytest.mark.parametrize("kind", ["nf4", "int8", "fp8"])
@pytest.mark.parametrize(
    ("make", "settings"),
    [(encoder, {"auto_class": SEQUENCES}), (encoder, {"pooling": "mean"}), (decoder, {"auto_class": CAUSAL})],
    ids=["own classifier", "bare encoder", "decoder"],
)
def test_the_linear_layers_of_the_repeated_layers_are_quantised_and_nothing_else(folder, kind, make, settings):
    pytest.importorskip(quantization.PACKAGES[kind])
    path = folder(make())
    dense, recipe = load_backbone(path, 2, **settings), find_recipe(path, 2, quantization=kind, **settings)
    loaded = recipe.load()
    layers = layer_prefixes(dense.model)
    for name, module in loaded.model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None:
            changed = isinstance(module, nn.Linear) and name.startswith(layers)
            assert (type(weight) is not nn.Parameter) == changed, name
    for backbone in (recipe.frame, loaded):
        assert (backbone.digest, backbone.parameters, backbone.head_modules) == (
            dense.digest,
            dense.parameters,
            dense.head_modules,
        )
        assert target_modules(backbone.model, "all-linear") == target_modules(dense.model, "all-linear")
    for head in dense.head_modules:
        assert torch.equal(loaded.model.get_submodule(head).weight, dense.model.get_submodule(head).weight)
    assert not recipe.shareable


def test_a_layer_that_would_stay_dense_is_named(folder):
    pytest.importorskip("torchao")
    model = transformers.GPT2Model(transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=2))
    with pytest.raises(BadRequestError, match=r"int8 leaves transformer\.h\.0\.attn\.c_attn of .* dense, a Conv1D"):
        load_backbone(folder(model), 2, quantization="int8")


def eight_bits():
    return transformers.TorchAoConfig(importlib.import_module("torchao.quantization").Int8WeightOnlyConfig())


STORED = {
    "nf4": ("bitsandbytes", lambda: transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")),
    "nf4 twice": (
        "bitsandbytes",
        lambda: transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
        ),
    ),
    "LLM.int8": ("bitsandbytes", lambda: transformers.BitsAndBytesConfig(load_in_8bit=True)),
    "int8": ("torchao", eight_bits),
}
"""Formats of stored weights, their packages, and transformers' configurations."""


@pytest.fixture(params=STORED)
def stored(request, folder, tmp_path):
    """The package, the folder of a checkpoint that is quantised, and that of the dense one."""
    package, settings = STORED[request.param]
    pytest.importorskip(package)
    dense, path = folder(decoder()), tmp_path / "stored"
    how = {"quantization_config": settings(), "device_map": {"": "cpu"}}
    transformers.AutoModelForCausalLM.from_pretrained(dense, **how).save_pretrained(path)
    words(padding_side="right").save_pretrained(path)
    return package, str(path), dense


def test_a_checkpoint_that_is_quantised_already_is_read_and_not_quantised_again(stored):
    _, path, dense = stored
    recipe = find_recipe(path, 0, auto_class=CAUSAL)
    loaded, plain = recipe.load(), load_backbone(dense, 0, auto_class=CAUSAL)
    assert loaded.parameters == recipe.frame.parameters == plain.parameters
    assert loaded.digest == recipe.checkpoint.digest("own") != plain.digest
    assert not recipe.shareable
    assert target_modules(recipe.frame.model, "all-linear") == target_modules(plain.model, "all-linear")
    with pytest.raises(BadRequestError, match="quantised already: leave out quantization int8"):
        find_recipe(path, 0, auto_class=CAUSAL, quantization="int8")


@pytest.mark.parametrize("method", ["lora", "adapad"])
def test_an_adapter_trains_over_stored_quantised_weights_and_peft_loads_it_on_them(method, stored):
    package, path, _ = stored
    rows = pd.DataFrame({"text": [f"w{4 + i} w{9 + i}" for i in range(40)], "label": [i % 2 for i in range(40)]})
    task = {"type": "choice", "prompt": "{text}", "words": {0: "w4", 1: "w5 w6"}}
    trained = ar.train(path, dataset=rows, method=method, budget="28 ranks", task=task, epochs=1, learning_rate=1e-2)
    assert trained.result.identity.quantization == package
    recorded = load_file(trained.folder / "predictions.safetensors")["test/final"]
    model = peft.PeftModel.from_pretrained(load_backbone(path, 0, auto_class=CAUSAL).model, trained.adapter)
    with torch.inference_mode():
        passes = ModelPasses(model, 64, 0, tokenizer=trained.backbone.tokenizer)
        found = TYPES["choice"].evaluate(trained.data, passes, ["test"])["test"].predictions
    torch.testing.assert_close(torch.from_numpy(found), recorded, rtol=0, atol=1e-3)


def test_a_plan_refuses_to_quantise_what_is_quantised_whether_or_not_its_package_is_here(folder, tmp_path):
    path = folder(decoder())
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadRequestError, match="quantised already: leave out quantization nf4"):
        reject_second_quantization(path, "nf4")
    reject_second_quantization(path, None)


def test_a_request_that_cannot_be_met_is_refused_before_anything_is_read(monkeypatch):
    with pytest.raises(BadRequestError, match="quantization 'nf3' is unknown: use one of nf4, int8, fp8"):
        load_backbone("nowhere", 2, quantization="nf3")
    with pytest.raises(BadRequestError, match="nf4 does not go with dtype float64"):
        load_backbone("nowhere", 2, quantization="nf4", dtype="float64")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for kind, package in quantization.PACKAGES.items():
        with pytest.raises(BadRequestError, match=rf"quantization {kind} needs {package}, which is not installed"):
            load_backbone("nowhere", 2, quantization=kind)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_pass_of_shapes_leaves_quantised_weights_as_they_are(folder, kind):
    """bitsandbytes moves the scales of a weight to the device of the input, which has none there."""
    pytest.importorskip(quantization.PACKAGES[kind])
    model = load_backbone(folder(decoder()), 0, auto_class=CAUSAL, quantization=kind).model
    tokens = {"input_ids": torch.tensor([[5, 6, 7]])}
    before = model(**tokens).logits
    pass_shapes(model, tokens)
    assert torch.equal(model(**tokens).logits, before)


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_model_that_is_an_object_is_trained_and_full_fine_tuning_of_it_refused(folder, kind):
    pytest.importorskip(quantization.PACKAGES[kind])
    model = load_backbone(folder(encoder()), 2, quantization=kind).model
    rows = pd.DataFrame({"text": [f"w{4 + i} w{9 + i}" for i in range(40)], "label": [i % 2 for i in range(40)]})
    arguments = {"dataset": rows, "epochs": 1, "max_length": 16}
    trained = ar.train(model, words(padding_side="right"), method="lora", budget=2000, **arguments)
    assert trained.result.identity.quantization == quantization.PACKAGES[kind]
    with pytest.raises(BadRequestError, match=f"cannot learn in {quantization.PACKAGES[kind]}"):
        ar.train(model, words(padding_side="right"), method="full", budget=None, **arguments)
