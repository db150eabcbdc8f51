"""Tokenised splits as flat numpy arrays: read-only sharing between processes costs nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.components import TrueComponents
from adapad_ray.tasks.loading import RawTask

if TYPE_CHECKING:
    import torch


class Split(Protocol):
    """What training and evaluation ask of the examples of one split."""

    @property
    def labels(self) -> np.ndarray:
        """`[examples]`, or `[examples, outputs]`."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example, int64 `[examples]`."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
        """The model's inputs for these examples, and their `labels`."""

    def size_of(self, batch: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Tokens of a batch, without and with padding."""

    def evaluation_batches(self, batch_size: int) -> list[np.ndarray]:
        """Index arrays that cover the split once."""


@dataclass(frozen=True)
class EncodedSplit:
    """Examples of one split, token sequences laid end to end."""

    tokens: np.ndarray
    """int32 `[total]`."""
    offsets: np.ndarray
    """int64 `[examples + 1]`: example i is `tokens[offsets[i]:offsets[i + 1]]`."""
    token_types: np.ndarray | None
    """int8 `[total]`, or None where the tokenizer marks no second text."""
    labels: np.ndarray
    """int64 `[examples]`."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example, int64 `[examples]`."""
        return np.diff(self.offsets)

    def batch(
        self,
        indices: np.ndarray,
        pad_token_id: int,
        pad_to_multiple_of: int = 1,
        padding_side: Literal["left", "right"] = "right",
    ) -> dict[str, torch.Tensor]:
        """Return the model's inputs, int64, padded to the longest of the batch.

        `input_ids`, `attention_mask` and, where there are any, `token_type_ids` are `[batch, longest]`; `labels` is
        `[batch]`. `longest` is rounded up to `pad_to_multiple_of`.
        """
        import torch  # here, because naming and listing tasks should not wait for it

        rows = np.asarray(indices)
        starts, lengths = self.offsets[rows], self.lengths[rows]
        width = -(-int(lengths.max(initial=1)) // pad_to_multiple_of) * pad_to_multiple_of
        positions = np.arange(width)[None, :]
        if padding_side == "left":
            positions = positions - (width - lengths)[:, None]
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

    @staticmethod
    def size_of(batch: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Tokens of a batch, without and with padding."""
        mask = batch["attention_mask"]
        return int(mask.sum()), mask.numel()

    def evaluation_batches(self, batch_size: int) -> list[np.ndarray]:
        """Return index arrays that cover the split once, examples of like length together."""
        order = np.argsort(self.lengths, kind="stable")
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@dataclass(frozen=True)
class TaskData:
    """A task ready for training."""

    name: str
    label_names: tuple[str, ...]
    metric: str
    splits: Mapping[str, Split]
    """`train`, `validation` and `test`."""
    digest: str
    """sha256 over the inputs and labels of all splits: what determines a result, and nothing else."""
    loss: str = "cross_entropy"
    """Name of the training loss in `tasks.losses`."""
    components: TrueComponents | None = None
    """What trained components are compared with, where the task knows it."""


def encode(
    raw: RawTask,
    tokenizer: Any,
    *,
    max_length: int,
    max_train_examples: int | None = None,
    max_validation_examples: int | None = None,
    max_test_examples: int | None = None,
) -> TaskData:
    """Tokenise a task, each sequence cut to `max_length` tokens.

    Every split stands in the order of a hash of its texts and a cap keeps its beginning, so neither depends on the
    order of rows, and a smaller cap is part of a larger one.

    Raises:
        BadRequestError: a cap is below 1, or `max_length` leaves no token or exceeds the model's limit.
    """
    special = tokenizer.num_special_tokens_to_add(pair="text_pair" in raw.splits["train"])
    if not special < max_length <= tokenizer.model_max_length:
        raise BadRequestError(
            f"max_length is {max_length:,}: this tokenizer takes {special + 1} to {tokenizer.model_max_length:,} tokens"
        )
    caps = {"train": max_train_examples, "validation": max_validation_examples, "test": max_test_examples}
    splits = {}
    for split, cap in caps.items():
        if cap is not None and cap < 1:
            raise BadRequestError(f"max_{split}_examples is {cap}: use at least 1, or leave it out for all")
        splits[split] = _encode_split(_in_hash_order(raw.splits[split])[:cap], tokenizer, max_length)
    return TaskData(raw.name, raw.label_names, raw.metric, splits, _digest(splits))


def _in_hash_order(frame: pd.DataFrame) -> pd.DataFrame:
    columns = [frame["text"], frame["text_pair"] if "text_pair" in frame else frame["text"], frame["label"]]
    keys = [
        hashlib.sha256(f"{text}\0{pair}\0{label}".encode()).digest() for text, pair, label in zip(*columns, strict=True)
    ]
    return frame.iloc[sorted(range(len(keys)), key=keys.__getitem__)]


def _encode_split(frame: pd.DataFrame, tokenizer: Any, max_length: int) -> EncodedSplit:
    pairs = frame["text_pair"].tolist() if "text_pair" in frame else None
    encoded = tokenizer(
        frame["text"].tolist(), pairs, truncation=True, max_length=max_length, return_attention_mask=False
    )
    offsets = np.zeros(len(frame) + 1, dtype=np.int64)
    np.cumsum([len(ids) for ids in encoded["input_ids"]], out=offsets[1:])
    token_types = None
    if "token_type_ids" in encoded:
        token_types = np.concatenate([np.asarray(row, dtype=np.int8) for row in encoded["token_type_ids"]])
        # Models take a missing segment for segment 0.
        token_types = token_types if token_types.any() else None
    return EncodedSplit(
        tokens=np.concatenate([np.asarray(ids, dtype=np.int32) for ids in encoded["input_ids"]]),
        offsets=offsets,
        token_types=token_types,
        labels=frame["label"].to_numpy(dtype=np.int64),
    )


def _digest(splits: Mapping[str, EncodedSplit]) -> str:
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(f"{name} {len(split)}\n".encode())
        for array in (split.tokens, split.offsets, split.token_types, split.labels):
            digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
