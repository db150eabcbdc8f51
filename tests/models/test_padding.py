"""Padding changes no result: a text alone and beside longer texts gives the same logits, for every architecture."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from adapad_ray.errors import BadRequestError
from adapad_ray.models import CAUSAL, SEQUENCES, load_backbone, load_skeleton
from adapad_ray.tasks.encoding.prompts import prompted
from adapad_ray.tasks.encoding.texts import encode_texts
from adapad_ray.training.batches import pad_to_multiple
from tests.architectures import ARCHITECTURES, DECODER, ENCODER
from tests.models.tiny_configs import words

SMALL = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
EOS = {"bos_token_id": 2, "eos_token_id": 3}
OTHERS = {
    "albert": lambda: transformers.AlbertConfig(**ENCODER, embedding_size=16),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=100, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=32, initializer_range=0.2
    ),
    "electra": lambda: transformers.ElectraConfig(**ENCODER, embedding_size=16),
    "mpnet": lambda: transformers.MPNetConfig(**(ENCODER | {"pad_token_id": 1})),
    "deberta": lambda: transformers.DebertaConfig(
        **ENCODER, relative_attention=True, pos_att_type="p2c|c2p", type_vocab_size=0
    ),
    "modernbert": lambda: transformers.ModernBertConfig(
        **SMALL, **EOS, intermediate_size=48, local_attention=4, initializer_range=0.2, cls_token_id=2, sep_token_id=3
    ),
    "xlnet": lambda: transformers.XLNetConfig(
        vocab_size=100, d_model=32, n_layer=2, n_head=4, d_inner=48, initializer_range=0.2
    ),
    "bart": lambda: transformers.BartConfig(
        vocab_size=100, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=32, init_std=0.2,
        pad_token_id=0, **EOS, decoder_start_token_id=3, forced_eos_token_id=3,
    ),
    "t5": lambda: transformers.T5Config(
        vocab_size=100, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=3,
        decoder_start_token_id=0,
    ),
    "mistral": lambda: transformers.MistralConfig(**DECODER, sliding_window=4),
    "gpt-neox": lambda: transformers.GPTNeoXConfig(**SMALL, intermediate_size=48, initializer_range=0.2),
    "gptj": lambda: transformers.GPTJConfig(
        vocab_size=100, n_embd=32, n_layer=2, n_head=4, n_positions=32, rotary_dim=4, initializer_range=0.2
    ),
    "bloom": lambda: transformers.BloomConfig(**SMALL, n_head=4, n_layer=2, initializer_range=0.2),
    "mpt": lambda: transformers.MptConfig(
        vocab_size=100, d_model=32, n_layers=2, n_heads=4, max_seq_len=32, initializer_range=0.2
    ),
    "falcon-alibi": lambda: transformers.FalconConfig(**SMALL, **EOS, alibi=True, initializer_range=0.2),
}  # fmt: skip
CONFIGS = {name: a.config for name, a in ARCHITECTURES.items() if not a.images} | OTHERS
DECODERS = ("opt", "gpt2", "falcon", "llama", "qwen3", "gemma2", "gemma3_text", "mistral", "gpt-neox", "gptj")
TEXTS = ["w5 w9", "w7 w5 w21 w30 w8 w9 w10 w11 w12 w13 w14", "w20 w5 w6 w7 w8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Saves a model of an architecture with a tokenizer of words that says nothing about the side of the padding."""
    tokenizer = words()

    def save(name):
        target, config = tmp_path_factory.mktemp("models") / name, CONFIGS[name]()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            kind = transformers.AutoModelForCausalLM if name in DECODERS else transformers.AutoModel
            kind.from_config(config).save_pretrained(target)
        tokenizer.save_pretrained(target)
        return str(target)

    return save


def logits(backbone, split, rows, multiple=1):
    batch = split.batch(np.array(rows), backbone.pad_token_id)
    batch = pad_to_multiple(batch, multiple, backbone.pad_token_id, left=split.pads_left)
    batch.pop("labels")
    with torch.no_grad():
        return backbone.model(**batch).logits[:1]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_text_has_the_same_logits_alone_and_beside_longer_texts(name, folder):
    source = folder(name)
    for pooling in ("own", "mean"):
        if pooling == "mean" and name in ("bart", "t5"):
            continue
        backbone = load_backbone(source, 3, auto_class=SEQUENCES, pooling=pooling)
        frame = pd.DataFrame({"text": TEXTS, "label": 0})
        split = encode_texts(frame, backbone.tokenizer, 32, np.int64)
        with torch.no_grad():  # a fresh head is close to zero and would hide differences
            for path in backbone.head_modules:
                for parameter in backbone.model.get_submodule(path).parameters(recurse=False):
                    parameter.normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
        alone = logits(backbone, split, [0])
        assert alone.abs().max() > 0.1
        for others in ([0, 1], [0, 2, 1]):
            torch.testing.assert_close(logits(backbone, split, others), alone, rtol=0, atol=1e-5)
        torch.testing.assert_close(logits(backbone, split, [0, 2], 8), alone, rtol=0, atol=1e-5)
        texts = encode_texts(frame.iloc[::-1], backbone.tokenizer, 32, np.int64)
        assert not torch.allclose(logits(backbone, texts, [0]), alone, atol=1e-3)


@pytest.mark.parametrize("config", [transformers.FNetConfig, transformers.NystromformerConfig, transformers.YosoConfig])
def test_architectures_that_mix_padding_into_texts_are_refused(config, tmp_path):
    config().save_pretrained(tmp_path)
    with pytest.raises(BadRequestError, match="mix padding into the states of a text"):
        load_skeleton(str(tmp_path), 2)


@pytest.mark.parametrize("name", ["bert", "roberta", "xlnet"])
def test_an_encoder_is_no_causal_language_model(name, tmp_path):
    CONFIGS[name]().save_pretrained(tmp_path)
    with pytest.raises(BadRequestError, match="needs a causal language model"):
        load_skeleton(str(tmp_path), 1, auto_class=CAUSAL)


@pytest.mark.parametrize("name", DECODERS)
def test_an_answer_has_the_same_logits_alone_and_after_longer_prompts(name, folder):
    backbone = load_backbone(folder(name), 1, auto_class=CAUSAL)
    split = prompted([[2, 5, 9, 7], [2, 7, 5, 21, 30, 8, 9, 10, 11, 12]], [1, 1], np.array([0, 0]))
    alone = logits(backbone, split, [0])
    torch.testing.assert_close(logits(backbone, split, [0, 1]), alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(backbone, split, [0, 1], 8), alone, rtol=0, atol=1e-5)
