"""Backbones: what is frozen, what is the head, and which modules get an adapter."""

import json
import re
from collections import Counter

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from adapad_ray.errors import BadRequestError
from adapad_ray.models import (
    backbone_parameters,
    initialise_head,
    list_models,
    load_backbone,
    load_skeleton,
    resolve_model,
)
from adapad_ray.models.target_modules import target_modules
from adapad_ray.models.task_models import MeanPooledClassifier

TEXTS = ["a short text", "a rather longer text about a film that nobody will ever see again"]


@pytest.fixture(scope="module")
def minilm():
    return load_backbone("minilm-l6", 2)


@pytest.fixture(scope="module")
def inputs(minilm):
    return minilm.tokenizer(TEXTS, padding=True, return_tensors="pt")


@pytest.fixture
def save(tmp_path, minilm):
    """Write a small random model with MiniLM's tokenizer and return its folder."""

    def write(model):
        model.save_pretrained(tmp_path / "model")
        minilm.tokenizer.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return write


def tiny(config_class, **changes):
    sizes = {"vocab_size": 30522, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return config_class(**(sizes | {"intermediate_size": 32, "pad_token_id": 0} | changes))


def test_minilm_is_frozen_and_its_only_head_is_the_classifier(minilm):
    assert (minilm.name, minilm.pooling, minilm.head_modules) == ("minilm-l6", "mean", ("classifier",))
    assert not minilm.model.training
    assert not any(parameter.requires_grad for parameter in minilm.model.parameters())
    # The published 22,713,216 parameters of all-MiniLM-L6-v2 less its pooler (384² + 384).
    assert minilm.parameters == 22_713_216 - 147_840
    assert re.fullmatch("[0-9a-f]{64}", minilm.digest)
    assert "minilm-l6" in list_models()


def test_mean_pooling_is_the_mean_over_real_tokens(minilm, inputs):
    logits = minilm.model(**inputs).logits
    bert = transformers.AutoModel.from_pretrained(resolve_model("minilm-l6").path_or_name)
    for text, row in zip(TEXTS, logits, strict=True):
        alone = minilm.tokenizer(text, return_tensors="pt")  # no padding, so a plain mean is the truth
        mean = bert(**alone).last_hidden_state[0].detach().numpy().astype(np.float64).mean(axis=0)
        expected = mean @ minilm.model.classifier.weight.numpy().T.astype(np.float64)
        np.testing.assert_allclose(row.numpy(), expected, atol=1e-6)


def test_labels_give_the_mean_cross_entropy(minilm, inputs):
    output = minilm.model(**inputs, labels=torch.tensor([1, 0]))
    log_probabilities = output.logits.log_softmax(-1)
    torch.testing.assert_close(output.loss, -(log_probabilities[0, 1] + log_probabilities[1, 0]) / 2)


def test_module_paths_are_those_of_transformers_classifier(minilm):
    own = load_backbone("minilm-l6", 2, pooling="own").model
    ours = {name: parameter.shape for name, parameter in minilm.model.named_parameters()}
    theirs = {name: parameter.shape for name, parameter in own.named_parameters() if "pooler" not in name}
    assert ours == theirs


def test_own_pooling_trains_a_pooler_that_the_checkpoint_lacks(save):
    folder = save(transformers.BertModel(tiny(transformers.BertConfig), add_pooling_layer=False))
    backbone = load_backbone(folder, 3)
    assert backbone.pooling == "own"
    assert backbone.head_modules == ("bert.pooler.dense", "classifier")
    assert backbone.model.bert.pooler.dense.bias.abs().max() == 0
    everything = sum(parameter.numel() for parameter in backbone.model.parameters())
    assert backbone.parameters == everything - (16 * 16 + 16) - (16 * 3 + 3)


def test_a_pretrained_pooler_stays_in_the_backbone(save):
    model = transformers.BertModel(tiny(transformers.BertConfig))
    backbone = load_backbone(save(model), 2)
    assert backbone.head_modules == ("classifier",)
    torch.testing.assert_close(backbone.model.bert.pooler.dense.weight, model.pooler.dense.weight)


def test_a_classifier_of_another_task_is_replaced(save):
    config = tiny(transformers.BertConfig, num_labels=3)
    model = transformers.BertForSequenceClassification(config)
    backbone = load_backbone(save(model), 2)
    assert backbone.head_modules == ("classifier",)
    assert backbone.model(torch.tensor([[101, 102]])).logits.shape == (1, 2)
    same_size = load_backbone(save(model), 3)
    assert same_size.head_modules == ("classifier",)
    assert not torch.equal(same_size.model.classifier.weight, model.classifier.weight)


@pytest.mark.parametrize(
    ("config", "head", "modules"),
    [
        (tiny(transformers.RobertaConfig), ("classifier.dense", "classifier.out_proj"), 12),
        (
            transformers.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32),
            ("pre_classifier", "classifier"),
            12,
        ),
        (tiny(transformers.LlamaConfig, num_key_value_heads=2), ("score",), 14),
        (tiny(transformers.ElectraConfig, embedding_size=8), ("classifier.dense", "classifier.out_proj"), 12),
    ],
    ids=["roberta", "distilbert", "llama", "electra"],
)
def test_other_architectures(save, config, head, modules):
    folder = save(transformers.AutoModel.from_config(config))
    backbone = load_backbone(folder, 2)
    assert backbone.head_modules == head
    shapes = target_modules(backbone.model, "all-linear")
    assert len(shapes) == modules
    assert target_modules(load_skeleton(folder, 2), "all-linear") == shapes
    tokens = torch.tensor([[101, 2023, 102], [101, 102, 0]])
    mask = (tokens != 0).long()
    assert backbone.model(input_ids=tokens, attention_mask=mask).logits.shape == (2, 2)
    mean = load_backbone(folder, 2, pooling="mean")
    assert mean.head_modules == ("classifier",)
    assert target_modules(mean.model, "all-linear") == shapes
    assert mean.model(input_ids=tokens, attention_mask=mask).logits.shape == (2, 2)


def test_a_decoder_without_padding_token_pads_with_its_end_token(save, tmp_path):
    folder = save(transformers.LlamaModel(tiny(transformers.LlamaConfig, num_key_value_heads=2, pad_token_id=None)))
    settings = tmp_path / "model" / "tokenizer_config.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps(content | {"pad_token": None, "eos_token": "[SEP]"}))
    backbone = load_backbone(folder, 2)
    assert backbone.tokenizer.pad_token == "[SEP]"
    assert backbone.model.config.pad_token_id == backbone.tokenizer.sep_token_id
    settings.write_text(json.dumps(content | {"pad_token": None, "eos_token": None}))
    with pytest.raises(BadRequestError, match="add a pad_token"):
        load_backbone(folder, 2)


def test_the_skeleton_has_every_shape_and_no_weights(minilm):
    skeleton = load_skeleton("minilm-l6", 2)
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    assert backbone_parameters(skeleton) == minilm.parameters
    expected = {name: parameter.shape for name, parameter in minilm.model.named_parameters()}
    assert {name: parameter.shape for name, parameter in skeleton.named_parameters()} == expected


def test_loading_is_silent_and_leaves_the_users_settings(capfd):
    transformers.logging.set_verbosity_info()
    state = torch.random.get_rng_state()
    try:
        load_backbone("minilm-l6", 2, pooling="own")
        assert transformers.logging.get_verbosity() == transformers.logging.INFO
        assert transformers.logging.is_progress_bar_enabled()
    finally:
        transformers.logging.set_verbosity_warning()
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_head_is_a_function_of_its_seed(minilm):
    model, head = MeanPooledClassifier(minilm.model.bert, 2), ("classifier",)
    state = torch.random.get_rng_state()
    weights = []
    for seed in (1, 2, 1):
        initialise_head(model, head, seed)
        weights.append(model.classifier.weight.detach().clone())
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])
    assert 0.018 < weights[0].std() < 0.022, "BERT's initializer_range is 0.02"
    assert model.classifier.bias.abs().max() == 0
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(load_backbone("minilm-l6", 2, seed=1).model.classifier.weight, weights[0])


def test_the_digest_follows_weights_and_pooling_not_the_seed(save):
    folder = save(transformers.BertModel(tiny(transformers.BertConfig)))
    digest = load_backbone(folder, 2).digest
    assert load_backbone(folder, 3, seed=5).digest == digest
    assert load_backbone(folder, 2, pooling="mean").digest != digest
    weights = load_file(f"{folder}/model.safetensors")
    weights["encoder.layer.0.output.dense.bias"] += 1e-3
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
    assert load_backbone(folder, 2).digest != digest


def test_a_dtype_is_honoured(minilm, inputs):
    half = load_backbone("minilm-l6", 2, dtype="bfloat16")
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(half.model(**inputs).logits.float(), minilm.model(**inputs).logits, atol=0.02, rtol=0)


def test_a_peft_adapter_round_trips_through_the_mean_pooled_model(minilm, inputs, tmp_path):
    expected = minilm.model(**inputs).logits
    config = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False, modules_to_save=["classifier"])
    adapted = peft.get_peft_model(load_backbone("minilm-l6", 2).model, config).eval()
    logits = adapted(**inputs).logits
    assert not torch.allclose(logits, expected)
    adapted.save_pretrained(tmp_path)
    for task_type in (None, "SEQ_CLS"):
        settings = json.loads((tmp_path / "adapter_config.json").read_text())
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"task_type": task_type}))
        fresh = load_backbone("minilm-l6", 2, seed=9).model
        loaded = peft.PeftModel.from_pretrained(fresh, str(tmp_path)).eval()
        torch.testing.assert_close(loaded(**inputs).logits, logits, atol=1e-6, rtol=0)


def test_all_linear_is_36_modules_of_minilm(minilm):
    shapes = target_modules(minilm.model, "all-linear")
    assert len(shapes) == 36
    assert sum(shape.in_features + shape.out_features for shape in shapes) == 41_472
    assert shapes[0].name == "bert.encoder.layer.0.attention.self.query"
    assert [shape.name.split(".")[3] for shape in shapes] == [str(layer) for layer in range(6) for _ in range(6)]
    own = load_skeleton("minilm-l6", 2, pooling="own")
    assert target_modules(own, "all-linear") == shapes, "the pooler is not adapted"


def test_names_match_as_in_peft(minilm):
    shapes = target_modules(minilm.model, ["value", "query"])
    assert sum(shape.in_features + shape.out_features for shape in shapes) == 9_216
    assert [shape.name.rpartition(".")[2] for shape in shapes] == ["query", "value"] * 6
    dense = target_modules(load_skeleton("minilm-l6", 2, pooling="own"), ["dense"])
    assert Counter(shape.name.split(".")[0] for shape in dense) == {"bert": 18}
    assert not any("pooler" in shape.name for shape in dense)
    (one,) = target_modules(minilm.model, ["bert.encoder.layer.5.intermediate.dense"])
    assert (one.in_features, one.out_features) == (384, 1536)


def test_a_pattern_matches_whole_paths(minilm):
    shapes = target_modules(minilm.model, r".*\.layer\.[45]\.attention\.self\.(query|key)")
    assert len(shapes) == 4
    with pytest.raises(BadRequestError):
        target_modules(minilm.model, r"layer\.[45]\.attention\.self\.query")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (["qurey"], "'qurey' matches no linear layer.*did you mean 'query'"),
        (["query", "w_o"], "'w_o' matches no linear layer.*available are query, key, value, dense"),
        (["classifier"], "pooler and head are not adapted"),
        (["uery"], "'uery' matches no linear layer"),
        ([], "empty list"),
        ("(query", "is not a regular expression"),
        ("q" * 1001, "1,001 characters"),
        (".*classifier", "matches no linear layer"),
    ],
)
def test_bad_target_modules(minilm, spec, message):
    with pytest.raises(BadRequestError, match=message):
        target_modules(minilm.model, spec)


def test_a_model_without_linear_layers_has_no_all_linear():
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(embedding_size=4, hidden_sizes=[8] * 4))
    with pytest.raises(BadRequestError, match="all-linear finds no linear layer"):
        target_modules(model, "all-linear")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "dtype 'int8' is unknown: use one of float32"),
        ({"pooling": "max"}, "pooling 'max' is unknown: use mean or own"),
        ({"num_labels": 0}, "num_labels is 0"),
    ],
)
def test_bad_loading_arguments(arguments, message):
    with pytest.raises(BadRequestError, match=message):
        load_backbone("minilm-l6", **({"num_labels": 2} | arguments))


def test_bad_sources(tmp_path, monkeypatch):
    with pytest.raises(BadRequestError, match="does not exist"):
        resolve_model("./nowhere")
    with pytest.raises(BadRequestError, match=r"has no config\.json"):
        resolve_model(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        BadRequestError, match="model 'nobody/nothing' would come from the Hub, which cannot be reached"
    ):
        load_backbone("nobody/nothing", 2)


def test_pickled_weights_are_refused(save, tmp_path):
    folder = save(transformers.BertModel(tiny(transformers.BertConfig)))
    weights = tmp_path / "model" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "model" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(BadRequestError, match="pickled weights are not loaded"):
        load_backbone(folder, 2)


def test_a_checkpoint_without_an_encoder_layer_is_refused(save):
    folder = save(transformers.BertModel(tiny(transformers.BertConfig)))
    weights = load_file(f"{folder}/model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadRequestError, match=r"incomplete: .* bert\.encoder\.layer\.1\.output\.dense"):
        load_backbone(folder, 2)


def test_a_model_of_unknown_type_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BadRequestError, match="could not be loaded"):
        load_backbone(str(tmp_path), 2)
    with pytest.raises(BadRequestError, match="could not be loaded"):
        load_skeleton(str(tmp_path), 2)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            tiny(transformers.BertConfig, num_attention_heads=4),
            {"query": (4, False), "attention.output.dense": (4, True)},
        ),
        (tiny(transformers.OPTConfig, ffn_dim=32), {"v_proj": (2, False), "out_proj": (2, True), "fc1": (1, False)}),
        (
            tiny(transformers.Qwen3Config, num_attention_heads=4, num_key_value_heads=2, head_dim=8),
            {
                "q_proj": (4, False),
                "k_proj": (2, False),
                "v_proj": (2, False),
                "o_proj": (4, True),
                "up_proj": (1, False),
            },
        ),
        (
            transformers.DistilBertConfig(dim=16, hidden_dim=32, n_layers=2, n_heads=4),
            {"q_lin": (4, False), "out_lin": (4, True), "lin1": (1, False)},
        ),
        (
            tiny(transformers.DebertaV2Config, num_attention_heads=4),
            {"key_proj": (4, False), "attention.output.dense": (4, True), "intermediate.dense": (1, False)},
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_attention_heads_come_from_the_models_configuration(config, expected):
    """Heads share the output of query, key and value, and the input of what brings them together; others have none."""
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    for suffix, heads in expected.items():
        shapes = target_modules(model, [suffix])
        assert len(shapes) == 2
        assert {(shape.heads, shape.heads_read) for shape in shapes} == {heads}, suffix
