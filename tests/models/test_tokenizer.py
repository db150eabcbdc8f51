"""Every tokenizer can pad."""

import json

import pytest
import transformers

from adapad_ray.errors import BadRequestError
from adapad_ray.models import load_backbone
from tests.models.tiny_configs import tiny_config


def test_a_decoder_without_padding_token_pads_with_its_end_token(save, tmp_path):
    folder = save(
        transformers.LlamaModel(tiny_config(transformers.LlamaConfig, num_key_value_heads=2, pad_token_id=None))
    )
    settings = tmp_path / "model" / "tokenizer_config.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps(content | {"pad_token": None, "eos_token": "[SEP]"}))
    backbone = load_backbone(folder, 2)
    assert backbone.tokenizer.pad_token == "[SEP]"
    assert backbone.model.config.pad_token_id == backbone.tokenizer.sep_token_id
    settings.write_text(json.dumps(content | {"pad_token": None, "eos_token": None}))
    with pytest.raises(BadRequestError, match="add a pad_token"):
        load_backbone(folder, 2)
