"""Small models with random weights, as a user would load them."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tests.conftest import WORDS


def bert(num_labels: int, kind: str = "BertForSequenceClassification") -> Any:
    config = transformers.BertConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
        num_labels=num_labels,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, kind)(config)
