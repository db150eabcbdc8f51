"""Splits that are carved by a hash of the content: the same for every row order, seed and machine."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

from adapad_ray.tasks.source import SPLITS

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1


def normalise(text: str) -> str:
    """Return the text with case and runs of white space levelled, so that trivial variants count as one text."""
    return " ".join(text.split()).casefold()


def fraction(value: str) -> float:
    """Return a uniform number in [0, 1) that is a function of the value alone: 52 bits of its sha256."""
    return (int.from_bytes(hashlib.sha256(value.encode()).digest()[:8]) >> 12) / 2**52


def carve(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return train, validation, test and whatever else there is, carving what `frames` lacks out of its train split.

    A row goes by the hash of its group, or of its text where there is no group. A labelled validation split without
    a test split becomes the test (GLUE's rule), because what picks a model may not judge it. A text under several
    groups stays in the test, else in the validation split only, so that carved splits share no text.
    """
    splits = dict(frames)
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    missing = [name for name in ("test", "validation") if name not in splits]
    if not missing:
        return splits
    rest = splits["train"]
    texts = rest["text"].map(normalise)
    places = (rest["group"].astype(str) if "group" in rest else texts).map(fraction).to_numpy(dtype=np.float64)
    bounds = {"test": (0.0, TEST_SHARE), "validation": (TEST_SHARE, TEST_SHARE + VALIDATION_SHARE)}
    left = np.ones(len(rest), dtype=bool)
    for name in missing:
        low, high = bounds[name]
        chosen = left & (places >= low) & (places < high)
        splits[name] = rest[chosen].reset_index(drop=True)
        left &= ~chosen & ~texts.isin(texts[chosen]).to_numpy()
    splits["train"] = rest[left].reset_index(drop=True)
    further = [name for name in splits if name not in SPLITS]
    return {name: splits[name] for name in (*SPLITS, *further)}
