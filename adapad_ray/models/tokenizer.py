"""Tokenizers: a model's own, ready to pad, or a stand-in to plan with."""

from __future__ import annotations

from typing import Any

import tokenizers
import transformers

from adapad_ray.errors import BadRequestError
from adapad_ray.models.reading import reading_model
from adapad_ray.models.source import ModelSource, read_config, resolve_for_planning, resolve_model
from adapad_ray.models.task_classes import reads_last_position

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "tekken.json")


def load_tokenizer(source: str) -> Any:
    """Load a model's tokenizer. Without a padding token of its own, it pads with its end-of-text token.

    Its `padding_side` is that of the model: left where the model's answer is at the last position, else right.

    Raises:
        BadRequestError: the model has no tokenizer, or the tokenizer has neither token.
    """
    resolved = resolve_model(source)
    if not _has_tokenizer(resolved):
        raise BadRequestError(f"model folder {source!r} has no tokenizer: write one there with its save_pretrained")
    with reading_model(source):
        tokenizer = transformers.AutoTokenizer.from_pretrained(resolved.path_or_name, trust_remote_code=False)
        config = read_config(resolved)
    make_ready_to_pad(tokenizer, config, source)
    return tokenizer


def make_ready_to_pad(tokenizer: Any, config: Any, source: str) -> None:
    """Set a tokenizer's padding side to that of its model, and its padding token where it has none.

    Raises:
        BadRequestError: the tokenizer has neither a padding nor an end-of-text token.
    """
    tokenizer.padding_side = "left" if reads_last_position(config) else "right"
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise BadRequestError(
                f"the tokenizer of model {source!r} has neither a padding nor an end-of-text token: add a pad_token"
            )
        tokenizer.pad_token = tokenizer.eos_token


def sketch_tokenizer(source: str) -> tuple[Any, bool]:
    """Return a tokenizer to plan with, and whether it is the model's own.

    The stand-in makes one token of every word and of every run of punctuation.

    Raises:
        BadRequestError: the model has a tokenizer that cannot be loaded.
    """
    if _has_tokenizer(resolve_for_planning(source)):
        return load_tokenizer(source), True
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "eos_token": "[EOS]"}
    vocabulary = {token: number for number, token in enumerate(special.values())}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, **special), False


def _has_tokenizer(source: ModelSource) -> bool:
    """Return whether a folder holds a tokenizer's files. Without them, some tokenizer classes load empty."""
    folder = source.folder
    return folder is None or any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES)
