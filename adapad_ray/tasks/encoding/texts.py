"""Tokenised texts as flat numpy arrays, which processes share without copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.encoding.assumed import AssumedSplit

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TokenSequences:
    """Token sequences, concatenated."""

    tokens: np.ndarray
    """int32 `[total]`."""
    offsets: np.ndarray
    """int64 `[examples + 1]`: example i is `tokens[offsets[i]:offsets[i + 1]]`."""
    pads_left: ClassVar[bool] = False
    """Whether shorter examples of a batch are padded before their first token, not after their last."""
    can_share_rows: ClassVar[bool] = False
    """Whether several examples of a batch can stand in one row: a causal model then tells them apart by positions."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example, int64 `[examples]`."""
        return np.diff(self.offsets)

    @staticmethod
    def size_of(batch: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Tokens of a batch, without and with padding."""
        mask = batch["attention_mask"]
        return int(mask.sum()), mask.numel()

    def evaluation_batches(self, batch_size: int) -> list[np.ndarray]:
        """Return index arrays that cover the split once, sequences of similar length together."""
        order = np.argsort(self.lengths, kind="stable")
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@dataclass(frozen=True)
class EncodedSplit(TokenSequences):
    """Examples of one split."""

    token_types: np.ndarray | None
    """int8 `[total]`, or None where the tokenizer marks no second text."""
    labels: np.ndarray
    """int64 `[examples]`, or float32 where they are numbers."""

    def batch(self, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
        """Return the model's inputs, int64, padded to the longest of the batch.

        `input_ids`, `attention_mask` and, where there are any, `token_type_ids` are `[batch, longest]`; `labels` is
        `[batch]`.
        """
        import torch  # slow, and not needed to list tasks

        rows = np.asarray(indices)
        starts, lengths = self.offsets[rows], self.lengths[rows]
        width = int(lengths.max(initial=1))
        positions = np.arange(width)[None, :] - (width - lengths[:, None] if self.pads_left else 0)
        mask = (positions >= 0) & (positions < lengths[:, None])
        flat = np.where(mask, starts[:, None] + positions, 0)
        batch = {
            "input_ids": np.where(mask, self.tokens[flat], pad_token_id).astype(np.int64),
            "attention_mask": mask.astype(np.int64),
            "labels": self.labels[rows],
        }
        if self.token_types is not None:
            batch["token_type_ids"] = np.where(mask, self.token_types[flat], 0).astype(np.int64)
        return {name: torch.from_numpy(array) for name, array in batch.items()}


@dataclass(frozen=True)
class LeftPaddedSplit(EncodedSplit):
    """Examples for a model that reads its answer from the last position, as XLNet does."""

    pads_left: ClassVar[bool] = True
    side: str = "left"
    """Part of the data's digest, because it decides what the model reads."""


def check_length(tokenizer: Any, max_length: int, *, pair: bool, room: int = 1) -> None:
    """Check that `max_length` leaves `room` tokens for the texts and is within the model's limit.

    Raises:
        BadRequestError: it is not.
    """
    least = tokenizer.num_special_tokens_to_add(pair=pair) + room
    if not least <= max_length <= tokenizer.model_max_length:
        raise BadRequestError(
            f"max_length is {max_length:,}: this tokenizer takes {least} to {tokenizer.model_max_length:,} tokens"
        )


def encode_texts(frame: pd.DataFrame, tokenizer: Any, max_length: int, label_type: type) -> EncodedSplit:
    """Tokenise `text` and `text_pair`, each sequence cut to `max_length` tokens.

    Batches are padded on the tokenizer's side.
    """
    pairs = frame["text_pair"].tolist() if "text_pair" in frame else None
    encoded = tokenizer(
        frame["text"].tolist(), pairs, truncation=True, max_length=max_length, return_attention_mask=False
    )
    token_types = None
    if "token_type_ids" in encoded:
        token_types = np.concatenate([np.asarray(row, dtype=np.int8) for row in encoded["token_type_ids"]])
        # Models take a missing segment for segment 0.
        token_types = token_types if token_types.any() else None
    tokens, offsets = concatenate(encoded["input_ids"])
    split = LeftPaddedSplit if tokenizer.padding_side == "left" else EncodedSplit
    return split(tokens, offsets, token_types, frame["label"].to_numpy(dtype=label_type))


def concatenate(rows: Sequence[Sequence[int] | np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated token sequences, int32, and their offsets, int64 `[rows + 1]`."""
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(ids) for ids in rows], out=offsets[1:])
    tokens = [np.asarray(ids, dtype=np.int32) for ids in rows]
    return np.concatenate(tokens) if tokens else np.zeros(0, dtype=np.int32), offsets


def assumed_texts(count: int, length: int, label: np.ndarray) -> AssumedSplit:
    """Examples of so many tokens, all with the same label."""

    def make(size: int) -> dict[str, np.ndarray]:
        ones = np.ones((size, length), dtype=np.int64)
        return {"input_ids": ones, "attention_mask": ones, "labels": np.repeat(label[None], size, axis=0)}

    return AssumedSplit(count, length, make)
