"""Rows that a split shares with the training data, on which a model's score says little about new rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from adapad_ray.tasks.data.splits import normalise
from adapad_ray.wording import counted


def shared_rows(frames: Mapping[str, pd.DataFrame]) -> list[str]:
    """A warning for every given split of which rows stand in the training data too, whatever their labels.

    Args:
        frames: split → rows as they were given, before any are carved.
    """
    train = set(_inputs(frames["train"]))
    warnings = []
    for split, frame in frames.items():
        inputs = [] if split == "train" else list(_inputs(frame))
        if not (shared := sum(row in train for row in inputs)):
            continue
        if shared == len(inputs):
            found = f"the {split} data are all in the training data too ({counted(shared, 'row')})"
        else:
            found = f"{shared:,} of {counted(len(inputs), 'row')} of the {split} data {_stand(shared)} in training too"
        warnings.append(f"{found}: a score on rows that were learnt says little about new ones")
    return warnings


def _stand(rows: int) -> str:
    return "stands" if rows == 1 else "stand"


def _inputs(frame: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """What a model reads of each row: its texts, trivial variants alike, or its picture."""
    if "image" in frame:  # texts are names there, and folders may hold files of the same name
        paths = (str(image) if isinstance(image, Path) else "" for image in frame["image"])
        return zip(paths, frame["text"], strict=True)
    columns = [map(normalise, frame[name]) for name in ("text", "text_pair") if name in frame]
    return zip(*columns, strict=True)
