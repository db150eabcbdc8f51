"""A tiny real model and a small real-looking task on disk, for tests of the whole chain.

Modules that start a Ray cluster belong to the xdist group `clusters` and so run in one process: two clusters at once
would only wait for each other.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # two processes on two cores: one thread each
    os.environ["OMP_NUM_THREADS"] = "1"

WORDS = ["good", "fine", "great", "bad", "poor", "awful", "film", "plot", "actor", "scene", "the", "a", "is", "was"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 2 layers and hidden size 32 with its tokenizer, randomly initialised, saved by transformers."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate(special + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 reviews of three classes as CSV: columns review and stars, labels are words and follow from the review's."""
    path = tmp_path_factory.mktemp("data") / "reviews.csv"
    draw = random.Random(0)
    lines = ["review,stars"]
    for i in range(400):
        stars = ("down", "so-so", "up")[i % 3]
        opinions = {"down": WORDS[3:6], "up": WORDS[:3], "so-so": [WORDS[0], WORDS[3]]}[stars]
        opinion = opinions if stars == "so-so" else draw.choices(opinions, k=2)
        words = opinion + draw.choices(WORDS[6:], k=draw.randint(2, 9))
        draw.shuffle(words)
        lines.append(f"{' '.join(words)} {'a ' * (i % 7)},{stars}")
    path.write_text("\n".join(lines) + "\n")
    return path
