"""How large the checks are, and the models and data they use: random weights of real shapes, random tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from adapad_ray.frozen_linear.mixed import use_bf16_products
from adapad_ray.models import Backbone, backbone_parameters
from adapad_ray.models.head import find_head_modules
from adapad_ray.models.skeleton import load_skeleton
from adapad_ray.models.task_classes import SEQUENCES
from adapad_ray.models.task_models import MeanPooledClassifier
from adapad_ray.tasks import EncodedSplit, TaskData

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Scale:
    """The sizes of a check."""

    shapes: tuple[str, ...]
    """Names of `SHAPES`, the smallest first."""
    batch_size: int
    tokens: int
    """Longest text."""
    steps: int
    """Of a cell."""
    timed_steps: int
    lanes: tuple[int, ...]
    rank: int
    """Of LoRA, and components per module in budgets."""
    seeds: int
    """Of the curve."""


FULL = Scale(("MiniLM-L6", "DeBERTaV3-base", "Qwen3-0.6B"), 16, 128, 20, 5, (4, 8), 8, 3)
TINY = Scale(("tiny",), 4, 12, 8, 2, (2,), 2, 1)


def _bert(width: int, layers: int, heads: int, vocabulary: int) -> nn.Module:
    config = transformers.BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=512,
        num_labels=2,
    )
    return MeanPooledClassifier(transformers.BertModel(config, add_pooling_layer=False), 2)


SHAPES: dict[str, Callable[[str], nn.Module]] = {
    "tiny": lambda device: _bert(32, 2, 2, 100),
    "MiniLM-L6": lambda device: _bert(384, 6, 12, 30_522),
    "DeBERTaV3-base": lambda device: load_skeleton("microsoft/deberta-v3-base", 2, device=device),
    "Qwen3-0.6B": lambda device: load_skeleton("Qwen/Qwen3-0.6B", 2, device=device),
}
"""Name → makes the model; two classes."""


def backbone(shape: str, device: str = DEVICE, precision: str = "full") -> Backbone:
    """A frozen model of this shape with random weights, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = SHAPES[shape](device).requires_grad_(False).eval().to(device)
    head = find_head_modules(model, set(), shape, SEQUENCES)
    if precision == "mixed":
        use_bf16_products(model, skip=head)
    tokenizer = SimpleNamespace(pad_token_id=0)  # training reads nothing else of a tokenizer
    return Backbone(shape, model, tokenizer, head, "own", "", backbone_parameters(model, head))


def random_task(scale: Scale) -> TaskData:
    """Random tokens and classes: enough training texts for a cell, between half as long and as long as `tokens`."""
    draw = np.random.default_rng(0)
    splits = {}
    for name, size in (("train", scale.steps * scale.batch_size), ("validation", 16), ("test", 32)):
        lengths = draw.integers(scale.tokens // 2, scale.tokens + 1, size)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        splits[name] = EncodedSplit(
            draw.integers(5, 100, offsets[-1]).astype(np.int32), offsets, None, np.arange(size) % 2
        )
    return TaskData("random", ("no", "yes"), "accuracy", splits, "")


def synchronize() -> None:
    """Waits until the device has finished."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
