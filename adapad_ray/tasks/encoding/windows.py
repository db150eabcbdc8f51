"""Windows over long contexts, for models of spans, and the positions of their tokens in the text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from adapad_ray.tasks.encoding.texts import EncodedSplit, concatenate

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SpanSplit:
    """Windows over the contexts of questions; the items are the questions."""

    windows: EncodedSplit
    """Their `labels` are the first and the last token of the answer, int64 `[windows, 2]`; 0 and 0 for a window that
    does not hold the whole answer."""
    items: np.ndarray
    """Number of each window's question, int64 `[windows]`."""
    begins: np.ndarray
    """First character of every token in its context, int32 `[total]`; -1 outside the context."""
    ends: np.ndarray
    """The character after its last one."""
    contexts: tuple[str, ...]
    """The context of every question."""
    answers: tuple[tuple[str, ...], ...]
    """The gold answers of every question; empty for a question without one."""

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def labels(self) -> np.ndarray:
        """1 where the question has an answer, int64 `[questions]`."""
        return np.array([len(gold) > 0 for gold in self.answers], dtype=np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per window, int64 `[windows]`."""
        return self.windows.lengths

    def batch(self, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
        """Windows; `labels` `[batch, 2]` are tokens of the padded window, which is padded on the right."""
        return self.windows.batch(indices, pad_token_id)

    def size_of(self, batch: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Tokens of a batch, without and with padding."""
        return self.windows.size_of(batch)

    def evaluation_batches(self, batch_size: int) -> list[np.ndarray]:
        """Index arrays that cover the windows once, windows of similar length together."""
        return self.windows.evaluation_batches(batch_size)


def make_windows(frame: pd.DataFrame, tokenizer: Any, max_length: int, stride: int, max_question: int) -> SpanSplit:
    """Windows of `max_length` tokens: a question `text_pair`, then a part of its context `text`.

    Neighbouring windows share `stride` tokens; questions are cut to `max_question`. `label` holds the texts of the
    answers and their first characters.
    """
    encoded = tokenizer(
        _cut(frame["text_pair"].tolist(), tokenizer, max_question),
        frame["text"].tolist(),
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
    )
    items = np.asarray(encoded["overflow_to_sample_mapping"], dtype=np.int64)
    tokens, offsets = concatenate(encoded["input_ids"])
    in_context = np.concatenate(
        [np.array([part == 1 for part in encoded.sequence_ids(row)]) for row in range(len(items))]
    )
    characters = np.concatenate([np.asarray(row, dtype=np.int32) for row in encoded["offset_mapping"]])
    begins, ends = (np.where(in_context, characters[:, side], -1).astype(np.int32) for side in (0, 1))
    types = encoded.get("token_type_ids")
    spans = [
        _span_in_window(begins[offsets[w] : offsets[w + 1]], ends[offsets[w] : offsets[w + 1]], frame["label"].iloc[i])
        for w, i in enumerate(items)
    ]
    token_types = None if types is None else np.concatenate([np.asarray(row, dtype=np.int8) for row in types])
    unique: dict[str, str] = {}  # a context that many questions share is stored and sent to workers once
    return SpanSplit(
        windows=EncodedSplit(tokens, offsets, token_types, np.array(spans, dtype=np.int64)),
        items=items,
        begins=begins,
        ends=ends,
        contexts=tuple(unique.setdefault(text, text) for text in frame["text"]),
        answers=tuple(texts for texts, _ in frame["label"]),
    )


def _cut(questions: list[str], tokenizer: Any, most: int) -> list[str]:
    """Stripped questions, cut to `most` tokens."""
    stripped = [question.strip() for question in questions]
    offsets = tokenizer(
        stripped, add_special_tokens=False, truncation=True, max_length=most, return_offsets_mapping=True
    )["offset_mapping"]
    return [text[: spans[-1][1]] if spans else text for text, spans in zip(stripped, offsets, strict=True)]


def _span_in_window(
    begins: np.ndarray, ends: np.ndarray, label: tuple[tuple[str, ...], tuple[int, ...]]
) -> tuple[int, int]:
    """First and last token of the first gold answer, or 0 and 0 if the window does not hold all of it."""
    texts, starts = label
    tokens = np.flatnonzero(begins >= 0)
    if not texts or not len(tokens):
        return 0, 0
    start, stop = starts[0], starts[0] + len(texts[0])
    if begins[tokens[0]] > start or ends[tokens[-1]] < stop:
        return 0, 0
    inside = tokens[(ends[tokens] > start) & (begins[tokens] < stop)]
    return (int(inside[0]), int(inside[-1])) if len(inside) else (0, 0)
