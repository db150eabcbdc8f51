"""A recipe reads no weight and says what a loaded backbone is; every process that follows it has the same backbone."""

import hashlib
import importlib.util
import pickle
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from adapad_ray.errors import BadRequestError
from adapad_ray.models import CAUSAL, SEQUENCES, LinearRecipe, find_recipe, load_backbone
from tests.architectures import DECODER, ENCODER
from tests.models.tiny_configs import words


@pytest.fixture(params=["bare encoder", "own classifier", "tied decoder"])
def model(request, tmp_path):
    """Folder and arguments of models that are loaded in different ways."""
    settings = {"auto_class": SEQUENCES, "precision": "mixed"}
    if request.param == "bare encoder":
        made, settings["pooling"] = transformers.BertModel(transformers.BertConfig(**ENCODER)), "mean"
    elif request.param == "own classifier":
        made = transformers.BertModel(transformers.BertConfig(**ENCODER), add_pooling_layer=False)
    else:
        made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER, tie_word_embeddings=True))
        settings = {"auto_class": CAUSAL, "dtype": "bfloat16"}
    made.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    words().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model"), settings


def test_a_recipe_says_what_loading_gives_and_gives_it(model):
    folder, settings = model
    recipe, loaded = find_recipe(folder, 3, **settings), load_backbone(folder, 3, **settings)
    again = pickle.loads(pickle.dumps(recipe)).load()
    for backbone in (recipe.frame, again):
        for field in ("name", "head_modules", "pooling", "digest", "parameters", "warnings", "pad_token_id"):
            assert getattr(backbone, field) == getattr(loaded, field), field
    assert {p.device.type for p in recipe.frame.model.parameters()} == {"meta"}
    expected, got = loaded.model.state_dict(), again.model.state_dict()
    assert list(got) == list(expected) == list(recipe.frame.model.state_dict())
    assert all(got[name].equal(value) and got[name].dtype == value.dtype for name, value in expected.items())
    assert not again.model.training and not any(p.requires_grad for p in again.model.parameters())
    assert [type(m) for m in again.model.modules()] == [type(m) for m in loaded.model.modules()]


def test_the_digest_is_of_the_files_alone(tmp_path):
    """Ids of cells hold it, so the same files must have the same digest in every version."""
    transformers.BertModel(transformers.BertConfig(**ENCODER)).save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    content = b"pooling own\n"
    for name in ("config.json", "model.safetensors"):
        data = (tmp_path / name).read_bytes()
        content += f"{name} {len(data)}\n".encode() + data
    expected = hashlib.sha256(content).hexdigest()
    assert find_recipe(str(tmp_path), 2).frame.digest == load_backbone(str(tmp_path), 2).digest == expected


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_in_the_dtype_of_the_files_are_the_files_and_others_are_private(tmp_path):
    made = transformers.BertModel(transformers.BertConfig(**ENCODER), add_pooling_layer=False)
    made.save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    count = sum(p.numel() for p in made.parameters())
    private = {("float32", "full"): 0, ("float32", "mixed"): 2, ("bfloat16", "full"): 2, ("float64", "full"): 8}
    for (dtype, precision), size in private.items():
        recipe = find_recipe(str(tmp_path), 2, pooling="mean", dtype=dtype, precision=precision)
        assert recipe.frame.parameters == count, "copies in bf16 are part of no count"
        assert recipe.private_bytes() == size * count
        weight = recipe.load().model.get_parameter("bert.encoder.layer.1.output.dense.weight")
        assert in_a_file(weight, tmp_path / "model.safetensors") == (dtype == "float32")


def in_a_file(weight, path):
    """Whether a tensor lies in the memory to which a file is mapped."""
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in maps]
    return any(low <= weight.data_ptr() < high for low, high in ranges)


def test_what_a_checkpoint_lacks_is_found_without_its_weights(tmp_path):
    transformers.BertModel(transformers.BertConfig(**ENCODER)).save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["encoder.layer.1.output.dense.weight"] = weights["encoder.layer.1.output.dense.weight"][:, :-1].clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadRequestError, match=r"do not go with .* bert\.encoder\.layer\.1\.output\.dense first"):
        find_recipe(str(tmp_path), 2)


def test_a_linear_model_needs_no_files():
    recipe = pickle.loads(pickle.dumps(LinearRecipe.of(8, 6, "float64")))
    layer = recipe.load().model.layers[0]
    assert layer.weight.shape == (6, 8) and layer.weight.dtype == torch.float64 and not layer.weight.any()
    assert recipe.frame.digest == recipe.load().digest and recipe.private_bytes() == 8 * 8 * 6


def test_a_recipe_carries_how_attention_is_computed(model):
    """The frame, which is only asked for shapes, has the default one."""
    folder, settings = model
    recipe = find_recipe(folder, 3, **settings, attn_implementation="eager")
    assert recipe.load().model.config._attn_implementation == "eager"
    assert find_recipe(folder, 3, **settings).load().model.config._attn_implementation == "sdpa"


def test_an_attention_that_is_not_installed_or_not_of_the_class_is_refused(tmp_path):
    for package in ("flash_attn", "flash_attn_interface"):
        assert importlib.util.find_spec(package) is None, "this test needs an environment without it"
    transformers.BloomForCausalLM(
        transformers.BloomConfig(vocab_size=100, hidden_size=16, n_layer=1, n_head=2)
    ).save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    for name in ("flash_attention_2", "flash_attention_3"):
        with pytest.raises(BadRequestError, match=rf"{name} needs flash-attn(-3)?, which is not installed"):
            find_recipe(str(tmp_path), 0, auto_class=CAUSAL, attn_implementation=name)
    with pytest.raises(BadRequestError, match=r"is flex_attention, which model .* a BloomForCausalLM, does not have"):
        find_recipe(str(tmp_path), 0, auto_class=CAUSAL, attn_implementation="flex_attention")
