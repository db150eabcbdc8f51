"""Two-layer models with random weights and a task of 48 sentences, on which a cell takes about a second."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from adapad_ray.frozen_linear.mixed import use_bf16_products
from adapad_ray.models import Backbone, Pooling, backbone_parameters
from adapad_ray.models.task_models import MeanPooledClassifier
from adapad_ray.tasks import EncodedSplit, TaskData
from adapad_ray.training.cell import Workspace

VOCABULARY = 100
COST_PER_RANK = 896
"""Parameters of one component on each of the 12 modules of `tiny_backbone`."""
TRAINING = {"epochs": 2.5, "batch_size": 8, "max_length": 10, "learning_rate": 1e-2}
"""15 optimizer steps on `tiny_task`."""

Architecture = Literal["bert", "gpt2", "falcon"]
"""GPT-2 stores its weights transposed (`Conv1D`); Falcon has a linear class of its own."""


def tiny_backbone(pooling: Pooling = "mean", architecture: Architecture = "bert", precision: str = "full") -> Backbone:
    """A frozen model of 2 layers and width 32 for two classes; every call returns a new copy with the same weights.

    Args:
        pooling: of BERT; the others read the last token.
        precision: `mixed` computes the products with frozen weights in bf16.
    """
    backbone = copy.deepcopy(shared_backbone(pooling, architecture))
    if precision == "mixed":
        use_bf16_products(backbone.model, skip=backbone.head_modules)
    return backbone


@functools.cache
def shared_backbone(pooling: Pooling = "mean", architecture: Architecture = "bert") -> Backbone:
    """The original of `tiny_backbone`, for reading shapes only."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, head = _decoder(architecture) if architecture != "bert" else _bert(pooling)
    model.requires_grad_(False).eval()
    tokenizer = SimpleNamespace(pad_token_id=0)  # training reads nothing else of a tokenizer
    return Backbone("tiny", model, tokenizer, head, pooling, "", backbone_parameters(model, head))


def _bert(pooling: Pooling) -> tuple[Any, tuple[str, ...]]:
    """A model and the paths of its head."""
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        initializer_range=0.2,
        num_labels=2,
    )
    if pooling == "mean":
        return MeanPooledClassifier(transformers.BertModel(config, add_pooling_layer=False), 2), ("classifier",)
    return transformers.BertForSequenceClassification(config), ("bert.pooler.dense", "classifier")


def _decoder(architecture: Architecture) -> tuple[Any, tuple[str, ...]]:
    """A model and the paths of its head."""
    common: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    common |= {"initializer_range": 0.2, "num_labels": 2}
    if architecture == "gpt2":
        gpt2 = transformers.GPT2Config(n_embd=32, n_inner=48, n_layer=2, n_head=2, n_positions=16, **common)
        return transformers.GPT2ForSequenceClassification(gpt2), ("score",)
    falcon = transformers.FalconConfig(
        hidden_size=32, ffn_hidden_size=48, num_hidden_layers=2, num_attention_heads=2, **common
    )
    return transformers.FalconForSequenceClassification(falcon), ("score",)


def word_tokenizer(words: Sequence[str]) -> Any:
    """BERT's form of a tokenizer, for texts of these words: [PAD] is 0, [UNK] 1, [CLS] 2, [SEP] 3, the first word 4."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    vocabulary = {word: i for i, word in enumerate([*special.values(), *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special)


@functools.cache
def tiny_task() -> TaskData:
    """Sentences of 4 to 9 random tokens; the class is whether one of five tokens occurs. 48, 16 and 24 examples."""
    draw = np.random.default_rng(0)
    splits = {}
    for name, size in (("train", 48), ("validation", 16), ("test", 24)):
        lengths = draw.integers(4, 10, size)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        tokens = draw.integers(20, VOCABULARY, offsets[-1]).astype(np.int32)
        classes = np.arange(size) % 2
        for i in np.flatnonzero(classes):
            tokens[draw.integers(offsets[i], offsets[i + 1])] = draw.integers(5, 10)
        splits[name] = EncodedSplit(tokens, offsets, None, classes)
    return TaskData("tiny", ("without", "with"), "accuracy", splits, "")


def tiny_workspace(
    pooling: Pooling = "mean", architecture: Architecture = "bert", precision: str = "full"
) -> Workspace:
    """A new `tiny_backbone` with `tiny_task`."""
    return Workspace(tiny_backbone(pooling, architecture, precision), tiny_task())
