"""Checks a model, its tokenizer and the tokenised texts against each other, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from adapad_ray.errors import BadRequestError
from adapad_ray.models.shape_pass import MissingRowError, pass_shapes
from adapad_ray.models.special_tokens import MarkedTexts, marked_texts
from adapad_ray.wording import counted

Batch = dict[str, Tensor]

MANY_UNKNOWN = 0.2
"""Share of unknown words above which a split is warned of (a project default)."""
_RESIZE = "resize the model's embedding with model.resize_token_embeddings(len(tokenizer)) and save both"


class Texts(Protocol):
    """The tokenised texts of one split."""

    @property
    def tokens(self) -> np.ndarray:
        """All tokens, concatenated."""

    @property
    def offsets(self) -> np.ndarray:
        """Text i is `tokens[offsets[i]:offsets[i + 1]]`."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per text."""

    def batch(self, indices: np.ndarray, pad_token_id: int) -> Batch:
        """The model's arguments for these texts, `[texts, tokens]`, and `labels`."""


@dataclass(frozen=True)
class Reading:
    """What a sweep's model reads, and how."""

    source: str
    """The model, as the user named it."""
    model: nn.Module
    """With weights or on the meta device; weights are not read."""
    tokenizer: Any
    splits: Mapping[str, Texts]
    added_tokens: int | None
    """Special tokens that the tokenizer adds to every text; None where it varies with a prompt."""
    pad: Callable[[Batch], Batch]
    """Pads a batch as training does, to a multiple of some length."""
    answer_tokens: int = 0
    """Tokens that the model may generate after the longest text."""
    plain: bool = True
    """Whether special tokens in a text, beside the added ones, stand there by its author."""


def check_texts(reading: Reading) -> tuple[str, ...]:
    """Check that the model has a row for every token and position of the texts; return what is only suspicious.

    The longest text is passed through the model, with shapes instead of floating-point numbers.

    Raises:
        BadRequestError: a token, a token type or a position is beyond the model, or the model rejects the texts.
    """
    _check_vocabulary(reading)
    marked = {
        name: marked_texts(split, reading.tokenizer, reading.added_tokens)
        for name, split in reading.splits.items()
        if reading.plain
    }
    longest = max(reading.splits, key=lambda name: int(reading.splits[name].lengths.max()))
    lengths = reading.splits[longest].lengths
    _check_pass(reading, longest, np.array([lengths.argmax(), lengths.argmin()]), reading.answer_tokens)
    for name, found in marked.items():
        if len(found.extremes) > 1:
            _check_pass(reading, name, found.extremes, 0)
    return tuple(_warnings(reading, marked, int(lengths.max())))


def _check_vocabulary(reading: Reading) -> None:
    rows, tokenizer = _token_rows(reading.model), reading.tokenizer
    knows = f"but the model has rows for tokens 0 to {rows - 1:,} only"
    pad = int(tokenizer.pad_token_id)
    if pad >= rows:
        raise BadRequestError(
            f"the tokenizer of model {reading.source!r} pads with {tokenizer.pad_token!r}, token {pad:,}, {knows}: "
            f"{_RESIZE}, or make a token that the model has its pad_token, such as the end-of-text token"
        )
    for name, split in reading.splits.items():
        token = int(split.tokens.max(initial=0))
        if token >= rows:
            text = int(np.searchsorted(split.offsets, int(split.tokens.argmax()), side="right")) - 1
            raise BadRequestError(
                f"the {name} split holds {tokenizer.convert_ids_to_tokens(token)!r}, token {token:,} of the tokenizer "
                f"of model {reading.source!r}, {knows} (first in {_excerpt(reading, split, text)!r}): {_RESIZE}, or "
                "use the model's own tokenizer"
            )


def _token_rows(model: nn.Module) -> int:
    embedding = _encoder(model).get_input_embeddings()
    return int(embedding.weight.shape[0])


def _encoder(model: nn.Module) -> Any:
    """The part of a task model that transformers defines."""
    return model if hasattr(model, "get_input_embeddings") else model.get_submodule(str(model.base_model_prefix))


def _check_pass(reading: Reading, split: str, rows: np.ndarray, answer_tokens: int) -> None:
    """Pass some texts of a split through the model, and further tokens after them."""
    batch = reading.splits[split].batch(rows, int(reading.tokenizer.pad_token_id))
    batch.pop("labels", None)
    batch["input_ids"] = _without(_skipped_token(reading.model), batch["input_ids"], batch["attention_mask"])
    batch = reading.pad(_lengthened(batch, answer_tokens))
    error = _error_of(reading.model, batch)
    if error is None:
        return
    if isinstance(error, MissingRowError) and any(part in error.table for part in ("type", "segment")):
        raise BadRequestError(
            f"the tokenizer of model {reading.source!r} marks texts with type {error.index}, but the model has "
            f"{error.rows} types: set model_input_names to input_ids and attention_mask in its tokenizer_config.json"
        ) from error
    if isinstance(error, TypeError | ValueError):
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise BadRequestError(
            f"model {reading.source!r} cannot read the texts of the {split} split ({reason}): use the model's own "
            "tokenizer, and texts without special tokens in them"
        ) from error
    width = batch["attention_mask"].shape[1]
    fitting = _longest_that_fits(reading.model, batch, type(error))
    if fitting:
        answers = f" with {counted(answer_tokens, 'token')} of an answer" if answer_tokens else ""
        raise BadRequestError(
            f"texts of the {split} split have up to {width:,} tokens{answers}, padding included, but model "
            f"{reading.source!r} has positions for {fitting:,} only: set training.max_length to {fitting:,} or less"
        ) from error
    # Otherwise the pass needs numbers that only the weights give, so it says nothing about the texts.


def _without(token: int | None, ids: Tensor, mask: Tensor) -> Tensor:
    """The ids with another one in the place of a token that takes up no position, for the worst case."""
    if token is None:
        return ids
    other = next((i for i in ids[mask.bool()].tolist() if i != token), token)
    return ids.masked_fill((ids == token) & mask.bool(), other)


def _error_of(model: nn.Module, batch: Batch) -> Exception | None:
    try:
        pass_shapes(model, batch)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        return error
    return None


def _longest_that_fits(model: nn.Module, batch: Batch, kind: type[Exception]) -> int:
    """Most columns of a batch with which the pass succeeds, or fails otherwise if a row is missing; 0 for none."""
    fits, fails = 0, batch["attention_mask"].shape[1]
    while fails - fits > 1:
        width = (fits + fails) // 2
        error = _error_of(model, _first_columns(batch, width))
        if error is None or (kind is MissingRowError and not isinstance(error, MissingRowError)):
            fits = width
        else:
            fails = width
    return fits


def _first_columns(batch: Batch, width: int) -> Batch:
    """The batch cut to so many columns; of prompts only the last token's logits are computed then."""
    cut = {name: value[:, :width] for name, value in batch.items() if value.ndim == 2}
    return cut | {name: value[-1:] for name, value in batch.items() if value.ndim == 1}


def _lengthened(batch: Batch, tokens: int) -> Batch:
    """The batch with its last tokens repeated, at the positions after them."""
    longer = dict(batch)
    for name, value in batch.items():
        if value.ndim == 2:
            steps = torch.arange(1, tokens + 1) if name == "position_ids" else torch.zeros(tokens, dtype=value.dtype)
            longer[name] = torch.cat([value, value[:, -1:] + steps], dim=1)
    return longer


def _warnings(reading: Reading, marked: Mapping[str, MarkedTexts], longest: int) -> list[str]:
    found = {name: texts for name, texts in marked.items() if len(texts.rows)}
    warnings, tokenizer = [], reading.tokenizer
    if found:
        name, texts = next(iter(found.items()))
        counts = ", ".join(f"{len(texts.rows):,} of {split}" for split, texts in found.items())
        ids = sorted({token for texts in found.values() for token in texts.tokens})
        written = ", ".join(tokenizer.convert_ids_to_tokens(ids))
        example = _excerpt(reading, reading.splits[name], int(texts.rows[0]))
        warnings.append(
            f"texts hold special tokens of the tokenizer ({written}; {counts}), which it reads as the tokens "
            f"themselves and not as text, so that they may end or split it: take them out if that is not meant (first "
            f"in {example!r})"
        )
    warnings += _empty(reading) + _unknown(reading)
    rows = _token_rows(reading.model)
    if len(tokenizer) > rows:
        warnings.append(
            f"the tokenizer of model {reading.source!r} has {len(tokenizer):,} tokens and the model rows for {rows:,}: "
            "no text of this task holds one of the others, but a new text may"
        )
    model: Any = reading.model
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < longest:
        warnings.append(
            f"texts have up to {longest:,} tokens, more than the {positions:,} positions that model "
            f"{reading.source!r} was made for"
        )
    skipped = _skipped_token(reading.model)
    if skipped not in (None, tokenizer.pad_token_id):
        warnings.append(
            f"the tokenizer pads with token {tokenizer.pad_token_id}, but model {reading.source!r} takes token "
            f"{skipped} for padding when it counts positions: the tokenizer may be another model's"
        )
    return warnings


def _empty(reading: Reading) -> list[str]:
    """The warning that texts are empty, or consist of characters that the tokenizer leaves out."""
    empty = {
        name: np.flatnonzero(np.diff(split.offsets) == (reading.added_tokens or 0))
        for name, split in reading.splits.items()
        if reading.added_tokens is not None
    }
    counts = ", ".join(f"{len(rows):,} of {name}" for name, rows in empty.items() if len(rows))
    if not counts:
        return []
    return [f"texts are empty, or nothing is left of them as tokens ({counts}): drop them if that is not meant"]


def _unknown(reading: Reading) -> list[str]:
    """The warning that many words are unknown to the tokenizer, as those of another script are."""
    unknown, warnings = reading.tokenizer.unk_token_id, []
    if unknown is None or unknown == reading.tokenizer.pad_token_id:
        return []
    for name, split in reading.splits.items():
        words = len(split.tokens) - (reading.added_tokens or 0) * (len(split.offsets) - 1)
        share = np.count_nonzero(split.tokens == unknown) / max(1, words)
        if share > MANY_UNKNOWN:
            warnings.append(
                f"{share:.0%} of the words of the {name} split are unknown to the tokenizer of model "
                f"{reading.source!r}, which reads all as {reading.tokenizer.unk_token}: is it for another language?"
            )
    return warnings


def _skipped_token(model: nn.Module) -> int | None:
    """The token that positions leave out, as RoBERTa's do; None in a model that counts all."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and "position" in name.rpartition(".")[2]:
            return module.padding_idx
    return None


def _excerpt(reading: Reading, split: Texts, text: int) -> str:
    begin, end = split.offsets[text : text + 2]
    decoded = str(reading.tokenizer.decode(split.tokens[begin:end].tolist()))
    return decoded if len(decoded) <= 80 else decoded[:77] + "..."
