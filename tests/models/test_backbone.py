"""Loaded backbones: what is frozen, what is the head, what decides the digest, and which checkpoints are refused."""

import re

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from adapad_ray.errors import BadRequestError
from adapad_ray.models import list_models, load_backbone, load_skeleton
from adapad_ray.models.target_modules import target_modules
from tests.models.tiny_configs import tiny_config


def test_minilm_is_frozen_and_its_only_head_is_the_classifier(minilm):
    assert (minilm.name, minilm.pooling, minilm.head_modules) == ("minilm-l6", "mean", ("classifier",))
    assert not minilm.model.training
    assert not any(parameter.requires_grad for parameter in minilm.model.parameters())
    # The published 22,713,216 parameters of all-MiniLM-L6-v2 less its pooler (384² + 384).
    assert minilm.parameters == 22_713_216 - 147_840
    assert re.fullmatch("[0-9a-f]{64}", minilm.digest)
    assert "minilm-l6" in list_models()


def test_own_pooling_trains_a_pooler_that_the_checkpoint_lacks(save):
    folder = save(transformers.BertModel(tiny_config(transformers.BertConfig), add_pooling_layer=False))
    backbone = load_backbone(folder, 3)
    assert backbone.pooling == "own"
    assert backbone.head_modules == ("bert.pooler.dense", "classifier")
    assert backbone.model.bert.pooler.dense.bias.abs().max() == 0
    everything = sum(parameter.numel() for parameter in backbone.model.parameters())
    assert backbone.parameters == everything - (16 * 16 + 16) - (16 * 3 + 3)


def test_a_pretrained_pooler_stays_in_the_backbone(save):
    model = transformers.BertModel(tiny_config(transformers.BertConfig))
    backbone = load_backbone(save(model), 2)
    assert backbone.head_modules == ("classifier",)
    torch.testing.assert_close(backbone.model.bert.pooler.dense.weight, model.pooler.dense.weight)


def test_a_classifier_of_another_task_is_replaced(save):
    config = tiny_config(transformers.BertConfig, num_labels=3)
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
        (tiny_config(transformers.RobertaConfig), ("classifier.dense", "classifier.out_proj"), 12),
        (
            transformers.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32),
            ("pre_classifier", "classifier"),
            12,
        ),
        (tiny_config(transformers.LlamaConfig, num_key_value_heads=2), ("score",), 14),
        (tiny_config(transformers.ElectraConfig, embedding_size=8), ("classifier.dense", "classifier.out_proj"), 12),
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


def test_the_digest_follows_weights_and_pooling_not_the_seed(save):
    folder = save(transformers.BertModel(tiny_config(transformers.BertConfig)))
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


def test_pickled_weights_are_refused(save, tmp_path):
    folder = save(transformers.BertModel(tiny_config(transformers.BertConfig)))
    weights = tmp_path / "model" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "model" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(BadRequestError, match="pickled weights are not loaded"):
        load_backbone(folder, 2)


def test_a_checkpoint_without_an_encoder_layer_is_refused(save):
    folder = save(transformers.BertModel(tiny_config(transformers.BertConfig)))
    weights = load_file(f"{folder}/model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, f"{folder}/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        BadRequestError, match=r"do not go with its config\.json: .* bert\.encoder\.layer\.1\.output\.dense"
    ):
        load_backbone(folder, 2)


def test_a_model_of_unknown_type_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(BadRequestError, match="could not be loaded"):
        load_backbone(str(tmp_path), 2)
    with pytest.raises(BadRequestError, match="could not be loaded"):
        load_skeleton(str(tmp_path), 2)
