"""Special tokens that stand in the texts themselves, where the tokenizer takes `</s>` or `[SEP]` for its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class MarkedTexts:
    """Texts of a split with more special tokens than the tokenizer adds."""

    rows: np.ndarray
    """Numbers of these texts."""
    tokens: tuple[int, ...]
    """The special tokens that stand in them."""
    extremes: np.ndarray
    """Texts with the most and the fewest of each special token, if texts differ in that."""


def marked_texts(texts: Any, tokenizer: Any, added_tokens: int | None) -> MarkedTexts:
    """Find the texts of a split that hold special tokens of their own.

    Args:
        texts: `tokens` and `offsets` of the split.
        added_tokens: special tokens that the tokenizer adds to every text; None for as many as every text has.
    """
    ids, count = _special_ids(tokenizer), len(texts.offsets) - 1
    counts = np.zeros((count, len(ids)), dtype=np.int64)
    places = np.flatnonzero(np.isin(texts.tokens, ids, kind="table"))
    of_text = np.searchsorted(texts.offsets, places, side="right") - 1
    np.add.at(counts, (of_text, np.searchsorted(ids, texts.tokens[places])), 1)
    if not counts.size:
        return MarkedTexts(np.arange(0), (), np.arange(0))
    totals = counts.sum(axis=1)
    rows = np.flatnonzero(totals > (totals.min() if added_tokens is None else added_tokens))
    usual = _usual(tokenizer, ids, added_tokens)
    if usual is None:
        usual = counts[totals == totals.min()].max(axis=0)
    written = tuple(int(token) for token in ids[(counts[rows] > usual).any(axis=0)])
    differing = counts[:, counts.max(axis=0) > counts.min(axis=0)]
    return MarkedTexts(rows, written, np.unique([differing.argmax(axis=0), differing.argmin(axis=0)]).astype(np.int64))


def _usual(tokenizer: Any, ids: np.ndarray, added_tokens: int | None) -> np.ndarray | None:
    """How often the tokenizer adds each special token to one text or to a pair, whichever adds so many."""
    for texts in (("",), ("", "")):
        tokens = np.asarray(tokenizer(*texts)["input_ids"], dtype=np.int64)
        if len(tokens) == added_tokens:
            return np.asarray(np.count_nonzero(tokens[:, None] == ids, axis=0))
    return None


def _special_ids(tokenizer: Any) -> np.ndarray:
    """Ids of the special tokens, sorted, without one that only stands for unknown words."""
    named = [tokens for role, tokens in tokenizer.special_tokens_map.items() if role != "unk_token"]
    others = {str(token) for tokens in named for token in (tokens if isinstance(tokens, list | tuple) else [tokens])}
    unknown = set() if tokenizer.unk_token in others else {tokenizer.unk_token_id}
    return np.array(sorted(set(tokenizer.all_special_ids) - unknown), dtype=np.int64)
