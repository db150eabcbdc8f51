"""Every architecture of the papers, tiny and with random weights, from its real configuration class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

TEXT: dict[str, Any] = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0}
TEXT |= {"initializer_range": 0.2}
ENCODER = TEXT | {"intermediate_size": 48, "num_attention_heads": 4, "max_position_embeddings": 32}
DECODER = TEXT | {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
DEBERTA = ENCODER | {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm"}
IMAGE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE |= {"image_size": 8, "patch_size": 4, "initializer_range": 0.2}
# gemma2 and gemma3 have layers of local attention, to be reached within texts of ten tokens.
GEMMA = DECODER | {"sliding_window": 4, "query_pre_attn_scalar": 16}


class Modules(NamedTuple):
    """The linear modules of one layer: suffix → features in and out, heads, and whether the heads share the input."""

    attention: dict[str, tuple[int, int, int, bool]]
    mlp: dict[str, tuple[int, int]]


class Architecture(NamedTuple):
    """A tiny model of one architecture, and what is adapted in one of its layers."""

    config: Callable[[], transformers.PretrainedConfig]
    layer: Modules
    images: bool = False


def _encoder(names: tuple[str, str, str, str], up: str, down: str, heads: int = 4) -> Modules:
    attention = {name: (32, 32, heads, name == names[3]) for name in names}
    return Modules(attention, {up: (32, 48), down: (48, 32)})


_BERT = _encoder(
    ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"),
    "intermediate.dense",
    "output.dense",
)
_DECODER = Modules(
    {
        "self_attn.q_proj": (32, 64, 4, False),
        "self_attn.k_proj": (32, 32, 2, False),
        "self_attn.v_proj": (32, 32, 2, False),
        "self_attn.o_proj": (64, 32, 4, True),
    },
    {"mlp.gate_proj": (32, 48), "mlp.up_proj": (32, 48), "mlp.down_proj": (48, 32)},
)
_PROJECTIONS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj")
_VIT = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj")

ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(lambda: transformers.BertConfig(**ENCODER), _BERT),
    "roberta": Architecture(lambda: transformers.RobertaConfig(**ENCODER), _BERT),
    "deberta-v2": Architecture(
        lambda: transformers.DebertaV2Config(**DEBERTA, share_att_key=True, pos_att_type="p2c|c2p", type_vocab_size=0),
        _encoder(
            (
                "attention.self.query_proj",
                "attention.self.key_proj",
                "attention.self.value_proj",
                "attention.output.dense",
            ),
            "intermediate.dense",
            "output.dense",
        ),
    ),
    "opt": Architecture(
        lambda: transformers.OPTConfig(
            vocab_size=100,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=32,
            word_embed_proj_dim=16,
            pad_token_id=0,
            init_std=0.2,
        ),
        _encoder(_PROJECTIONS, "fc1", "fc2"),
    ),
    "gpt2": Architecture(
        lambda: transformers.GPT2Config(
            vocab_size=100,
            n_embd=32,
            n_inner=48,
            n_layer=2,
            n_head=4,
            n_positions=32,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
            initializer_range=0.2,
        ),
        Modules(
            {"attn.c_attn": (32, 96, 1, False), "attn.c_proj": (32, 32, 4, True)},
            {"mlp.c_fc": (32, 48), "mlp.c_proj": (48, 32)},
        ),
    ),
    "falcon": Architecture(
        lambda: transformers.FalconConfig(
            vocab_size=100,
            hidden_size=32,
            ffn_hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
            initializer_range=0.2,
        ),
        Modules(
            # Multi-query attention: 4 query heads of 8, one key and one value head.
            {"self_attention.query_key_value": (32, 48, 1, False), "self_attention.dense": (32, 32, 4, True)},
            {"mlp.dense_h_to_4h": (32, 48), "mlp.dense_4h_to_h": (48, 32)},
        ),
    ),
    "llama": Architecture(lambda: transformers.LlamaConfig(**DECODER), _DECODER),
    "qwen3": Architecture(lambda: transformers.Qwen3Config(**DECODER), _DECODER),
    "gemma2": Architecture(lambda: transformers.Gemma2Config(**GEMMA), _DECODER),
    "gemma3_text": Architecture(lambda: transformers.Gemma3TextConfig(**GEMMA), _DECODER),
    "vit": Architecture(lambda: transformers.ViTConfig(**IMAGE), _encoder(_VIT, "mlp.fc1", "mlp.fc2", 2), images=True),
    "siglip": Architecture(
        lambda: transformers.SiglipConfig(text_config=IMAGE | {"vocab_size": 10}, vision_config=IMAGE),
        _encoder(_PROJECTIONS, "mlp.fc1", "mlp.fc2", 2),
        images=True,
    ),
    "paligemma": Architecture(
        lambda: transformers.PaliGemmaConfig(
            text_config=GEMMA | {"model_type": "gemma2"},
            vision_config=IMAGE | {"model_type": "siglip_vision_model", "vision_use_head": False, "projection_dim": 32},
            projection_dim=32,
            image_token_index=99,
        ),
        _DECODER,
        images=True,
    ),
}
"""By transformers' `model_type`; PaliGemma's layer is that of its language model."""


def save_architecture(name: str, tokenizer_of: Path, folder: Path) -> Path:
    """Save the base model as its authors would, with the tokenizer of another folder; return the folder."""
    config = ARCHITECTURES[name].config()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    if not ARCHITECTURES[name].images:
        transformers.AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(folder)
    return folder
