"""A two-layer BERT with random weights and a task of 48 sentences, on which a cell takes about a second."""

from __future__ import annotations

import copy
import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers

from adapad_ray.models import Backbone, Pooling, backbone_parameters
from adapad_ray.models.task_models import MeanPooledClassifier
from adapad_ray.tasks import EncodedSplit, TaskData
from adapad_ray.training.cell import Workspace

VOCABULARY = 100
COST_PER_RANK = 896
"""Parameters of one component on each of the 12 modules of `tiny_backbone`."""
TRAINING = {"epochs": 2.5, "batch_size": 8, "max_length": 10, "learning_rate": 1e-2}
"""15 optimizer steps on `tiny_task`."""


def tiny_backbone(pooling: Pooling = "mean") -> Backbone:
    """A frozen BERT of 2 layers and width 32 for two classes; every call returns a new copy with the same weights."""
    return copy.deepcopy(shared_backbone(pooling))


@functools.cache
def shared_backbone(pooling: Pooling = "mean") -> Backbone:
    """The original of `tiny_backbone`, for reading shapes only."""
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
    model: Any
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if pooling == "mean":
            model = MeanPooledClassifier(transformers.BertModel(config, add_pooling_layer=False), 2)
            head: tuple[str, ...] = ("classifier",)
        else:
            model = transformers.BertForSequenceClassification(config)
            head = ("bert.pooler.dense", "classifier")
    model.requires_grad_(False).eval()
    tokenizer = SimpleNamespace(pad_token_id=0)  # training reads nothing else of a tokenizer
    return Backbone("tiny", model, tokenizer, head, pooling, "", backbone_parameters(model, head))


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


def tiny_workspace(pooling: Pooling = "mean") -> Workspace:
    """A new `tiny_backbone` with `tiny_task`."""
    return Workspace(tiny_backbone(pooling), tiny_task())
