"""Carving splits by a hash of the content: the same for every order of rows, seed and machine."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd

SPLITS = ("train", "validation", "test")
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1


def normalise(text: str) -> str:
    """Return the text in one case and with single spaces, so that trivial variants count as one text."""
    return " ".join(text.split()).casefold()


def fraction(value: str) -> float:
    """Return a uniform number in [0, 1) that is a function of the value alone: 52 bits of its sha256."""
    return (int.from_bytes(hashlib.sha256(value.encode()).digest()[:8]) >> 12) / 2**52


def carve(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return train, validation, test and all other splits; missing ones are carved from the train split.

    A row goes by the hash of its group, or of its text where it has no group. A labelled validation split without a
    test split becomes the test (GLUE's rule), because what picks a model may not judge it. A text that belongs to
    several groups stays in the test, else in the validation split only, so that carved splits share no text.
    """
    splits = dict(frames)
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    missing = [name for name in ("test", "validation") if name not in splits]
    if not missing:
        return splits
    rest = splits["train"]
    texts = rest["text"].map(normalise)
    hashes = (rest["group"].astype(str) if "group" in rest else texts).map(fraction).to_numpy(dtype=np.float64)
    bounds = {"test": (0.0, TEST_SHARE), "validation": (TEST_SHARE, TEST_SHARE + VALIDATION_SHARE)}
    left = np.ones(len(rest), dtype=bool)
    for name in missing:
        low, high = bounds[name]
        chosen = left & (hashes >= low) & (hashes < high)
        splits[name] = rest[chosen].reset_index(drop=True)
        left &= ~chosen & ~texts.isin(texts[chosen]).to_numpy()
    splits["train"] = rest[left].reset_index(drop=True)
    further = [name for name in splits if name not in SPLITS]
    return {name: splits[name] for name in (*SPLITS, *further)}


def carved_counts(rows: dict[str, int]) -> dict[str, int]:
    """The expected number of rows of the three splits after carving, given those of the splits that exist."""
    counts = dict(rows)
    if "test" not in counts and "validation" in counts:
        counts["test"] = counts.pop("validation")
    shares = {"test": TEST_SHARE, "validation": VALIDATION_SHARE}
    carved = {name: round(share * counts["train"]) for name, share in shares.items() if name not in counts}
    counts |= carved
    counts["train"] -= sum(carved.values())
    return {name: counts[name] for name in SPLITS}
