"""Which files of a folder decide what is loaded; all others change neither the model nor its digest."""

import importlib.util
import json
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from adapad_ray.errors import BadRequestError
from adapad_ray.models import CAUSAL, load_backbone, load_skeleton, load_tokenizer, unloadable_weights
from tests.architectures import DECODER, ENCODER
from tests.models.tiny_configs import words


@pytest.fixture
def folder(tmp_path):
    return saved(transformers.BertModel(transformers.BertConfig(**ENCODER)), tmp_path / "model")


def saved(model, folder, **settings):
    model.save_pretrained(folder, **settings)
    words().save_pretrained(folder)
    return folder


def change(path, **changes):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def weights_of(folder):
    backbone = load_backbone(str(folder), 2)
    return backbone.digest, backbone.model.state_dict()


def assert_loads_the_same(folder, before):
    digest, weights = weights_of(folder)
    assert digest == before[0]
    assert all(torch.equal(weights[name], value) for name, value in before[1].items())


def test_an_adapter_beside_the_weights_is_refused_before_they_are_read(folder):
    """transformers would load it on top of them."""
    base = transformers.BertForSequenceClassification.from_pretrained(folder)
    peft.get_peft_model(base, peft.LoraConfig(target_modules=["query"])).save_pretrained(folder)
    for load in (lambda: load_backbone(str(folder), 2), lambda: load_skeleton(str(folder), 2)):
        with pytest.raises(BadRequestError, match=r"holds adapter_config.json beside the weights of a model: delete"):
            load()
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadRequestError, match=r"holds an adapter only .* pass its base model, '.*model', or merge"):
        load_skeleton(str(folder), 2)
    (folder / "config.json").unlink()
    with pytest.raises(BadRequestError, match="holds an adapter only"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_file_that_git_has_not_fetched_is_named(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    for load in (lambda: load_backbone(str(folder), 2), lambda: load_skeleton(str(folder), 2)):
        with pytest.raises(
            BadRequestError, match=rf"{name} of model folder '.*' is a pointer of Git LFS: run `git lfs"
        ):
            load()


@pytest.mark.parametrize("content", ["[]", "3", "{"])
def test_a_configuration_that_is_no_object_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    for load in (lambda: load_backbone(str(folder), 2), lambda: load_tokenizer(str(folder))):
        with pytest.raises(BadRequestError, match=r"config\.json of model"):
            load()


@pytest.mark.parametrize("pooling", ["mean", "own"])
def test_weights_of_other_shapes_than_the_configuration_says_are_refused(folder, pooling):
    change(folder / "config.json", vocab_size=500)
    with pytest.raises(
        BadRequestError, match=r"do not go with its config.json: 1 layer of it is missing in them or of"
    ):
        load_backbone(str(folder), 2, pooling=pooling)


def test_a_language_model_of_another_shape_is_refused(tmp_path):
    folder = saved(transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER)), tmp_path / "model")
    change(folder / "config.json", vocab_size=500)
    with pytest.raises(BadRequestError, match=r"do not go with its config\.json"):
        load_backbone(str(folder), 2, auto_class=CAUSAL)


@pytest.mark.parametrize("pooling", ["mean", "own"])
def test_layers_that_the_configuration_leaves_out_are_named(folder, pooling):
    assert load_backbone(str(folder), 2, pooling=pooling).warnings == ()
    layers = ENCODER["num_hidden_layers"]
    change(folder / "config.json", num_hidden_layers=layers - 1)
    (warning,) = load_backbone(str(folder), 2, pooling=pooling).warnings
    assert f"have {layers} layers in 'layer', its config.json says {layers - 1}: those after it are left" in warning


def test_a_folder_without_weights_that_can_be_read_can_only_be_planned(folder):
    assert unloadable_weights(str(folder)) == () == unloadable_weights("minilm-l6")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (warning,) = unloadable_weights(str(folder))
    assert "has no model.safetensors: pickled weights are not loaded" in warning
    assert warning.endswith("it can be planned, not trained")


def test_weights_in_other_files_are_not_read(folder):
    before = weights_of(folder)
    other = {name: value + 1 for name, value in load_file(folder / "model.safetensors").items()}
    torch.save(other, folder / "pytorch_model.bin")
    save_file(other, folder / "model.fp16.safetensors", metadata={"format": "pt"})
    save_file(other, folder / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    index = {"weight_map": dict.fromkeys(other, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_loads_the_same(folder, before)


def test_no_code_of_a_folder_is_run(folder):
    before = load_backbone(str(folder), 2).model.state_dict()
    for name in ("modeling_own.py", "configuration_own.py", "tokenization_own.py"):
        (folder / name).write_text("raise SystemExit('code of the checkpoint was run')")
    classes = {"AutoModel": "modeling_own.Own", "AutoModelForSequenceClassification": "modeling_own.Own"}
    change(folder / "config.json", auto_map=classes | {"AutoConfig": "configuration_own.Own"})
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_own.Own", None]})
    after = load_backbone(str(folder), 2).model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_the_digest_follows_every_shard_and_the_index(tmp_path):
    model = transformers.BertModel(transformers.BertConfig(**ENCODER))
    folder = saved(model, tmp_path / "sharded", max_shard_size="10KB")
    digests = {weights_of(folder)[0]}
    for shard in sorted(folder.glob("model-*.safetensors"))[:2]:
        content = load_file(shard)
        next(iter(content.values())).add_(1e-3)
        save_file(content, shard, metadata={"format": "pt"})
        digests.add(weights_of(folder)[0])
    assert len(digests) == 3
    (tmp_path / "sharded" / "model-left-over.safetensors").write_bytes(b"")
    assert weights_of(folder)[0] in digests
    shard.unlink()
    with pytest.raises(BadRequestError, match=rf"lacks '{shard.name}', which model.safetensors.index.json names"):
        load_backbone(str(folder), 2)
    change(folder / "model.safetensors.index.json", weight_map={"a": "../model.safetensors"})
    with pytest.raises(BadRequestError, match=r"lacks '../model.safetensors'"):
        load_backbone(str(folder), 2)


def test_weights_that_the_configuration_names_are_the_ones_that_count(folder):
    first = weights_of(folder)
    other = {name: value + 1 for name, value in load_file(folder / "model.safetensors").items()}
    save_file(other, folder / "other.safetensors", metadata={"format": "pt"})
    change(folder / "config.json", transformers_weights="other.safetensors")
    digest, weights = weights_of(folder)
    assert not torch.equal(
        weights["bert.encoder.layer.0.output.dense.bias"], first[1]["bert.encoder.layer.0.output.dense.bias"]
    )
    save_file(
        {name: value + 1 for name, value in other.items()}, folder / "other.safetensors", metadata={"format": "pt"}
    )
    assert len({first[0], digest, weights_of(folder)[0]}) == 3


def test_generation_settings_beside_the_weights_do_not_change_greedy_answers(tmp_path):
    folder = saved(transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER)), tmp_path / "model")
    prompt = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    chosen = transformers.GenerationConfig(max_new_tokens=8, do_sample=False, pad_token_id=0, eos_token_id=3)

    def answer():
        return load_backbone(str(folder), 1, auto_class=CAUSAL).model.generate(**prompt, generation_config=chosen)

    before = answer()
    change(folder / "generation_config.json", repetition_penalty=50.0, suppress_tokens=before[0, 4:].tolist())
    assert torch.equal(answer(), before)


@pytest.mark.parametrize(
    ("settings", "package"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "gptqmodel"),
        ({"quant_method": "compressed-tensors"}, "compressed.tensors"),
        ({"quant_method": "no-such-method"}, "quantised.*no-such-method"),
    ],
    ids=lambda value: value.get("quant_method") if isinstance(value, dict) else "",
)
def test_a_quantised_checkpoint_names_the_package_that_reads_it(folder, settings, package):
    if package.isidentifier() and importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    change(folder / "config.json", quantization_config=settings)
    reasons = []
    for load in (load_backbone, load_skeleton):
        with pytest.raises(BadRequestError, match=rf"{package}.*pass the model without quantisation") as raised:
            load(str(folder), 2)
        reasons.append(str(raised.value))
    assert reasons[0] == reasons[1] and "\n" not in reasons[0]


def test_a_tokenizer_whose_package_is_missing_names_it(folder, monkeypatch):
    (folder / "tokenizer.json").unlink()
    Path(folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab"})
    )
    monkeypatch.setitem(__import__("sys").modules, "fugashi", None)
    with pytest.raises(BadRequestError, match=r"needs a package that is not installed: .*fugashi"):
        load_tokenizer(str(folder))
