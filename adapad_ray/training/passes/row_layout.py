"""Several texts in one row of a batch: which text stands where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from adapad_ray.tasks.losses import IGNORED


class Rows(NamedTuple):
    """Texts laid into rows. The padding at the end of a row is a text of its own, without labels."""

    inputs: dict[str, Tensor]
    """`input_ids` and `position_ids`, int64 `[rows, width]`; positions begin anew with every text."""
    labels: Tensor
    """As before, `[texts, answer]`."""
    logits_at: Tensor
    """Row and column of the logits that predict each label, int64 `[texts, answer, 2]`."""


def rows_of(lengths: np.ndarray, width: int) -> list[list[int]]:
    """Return the texts of every row of `width` tokens: the longest first, each into the first row that has room."""
    rows: list[list[int]] = []
    room: list[int] = []
    for text in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[text])
        row = next((row for row, left in enumerate(room) if length <= left), None)
        if row is None:
            rows.append([])
            room.append(width)
            row = len(rows) - 1
        rows[row].append(text)
        room[row] -= length
    return rows


def width_of(lengths: np.ndarray, multiple: int, *, one_row: bool) -> int:
    """Return the tokens of a row: of the longest text, or of all texts in one, rounded up to a multiple."""
    longest = int(lengths.sum() if one_row else lengths.max())
    return -(-longest // multiple) * multiple


def lay_out(batch: Mapping[str, Tensor], width: int, pad_token_id: int) -> Rows:
    """Lay the texts of a batch of prompts, which are padded on the left, into rows of `width` tokens."""
    mask, labels = batch["attention_mask"].bool().numpy(), batch["labels"].numpy()
    tokens, lengths = batch["input_ids"].numpy(), mask.sum(1)
    rows = rows_of(lengths, width)
    ids = np.full((len(rows), width), pad_token_id, dtype=np.int64)
    positions = np.zeros_like(ids)
    places = np.zeros((len(lengths), 2), dtype=np.int64)
    """Row and first column of every text."""
    for row, texts in enumerate(rows):
        column = 0
        for text in texts:
            end = column + int(lengths[text])
            ids[row, column:end], positions[row, column:end] = tokens[text, mask[text]], np.arange(end - column)
            places[text] = row, column
            column = end
        positions[row, column:] = np.arange(width - column)
    columns = places[:, 1:] + lengths[:, None] + batch["logits_to_keep"].numpy()[None, :]
    columns = np.where(labels == IGNORED, places[:, 1:], columns)  # any place: nothing is learnt there
    at = np.stack([np.broadcast_to(places[:, :1], columns.shape), columns], axis=-1)
    inputs = {"input_ids": torch.from_numpy(ids), "position_ids": torch.from_numpy(positions)}
    return Rows(inputs, batch["labels"], torch.from_numpy(at))
