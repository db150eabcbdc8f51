"""Carving splits by a hash of the content: the same for every order of rows, seed and machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from adapad_ray.wording import counted, listed

SPLITS = ("train", "validation", "test")
_CARVED = ("test", "validation")
"""The splits that may be missing, in the order in which they are carved."""

_Share = Annotated[float, Field(gt=0, lt=1)]


class Shares(BaseModel):
    """Shares of the training data that carved splits get."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    validation: _Share = 0.1
    test: _Share = 0.2

    @model_validator(mode="after")
    def _leave_training_data(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation:g} and test {self.test:g} leave nothing for training")
        return self


class Carved(NamedTuple):
    """Splits, and how they came about."""

    splits: dict[str, pd.DataFrame]
    carved: tuple[str, ...]
    """The splits that were carved from the training data."""
    dropped: int
    """Rows of the training data that are in no split, because their text is in a carved one with another group."""
    warnings: list[str]


def normalise(text: str) -> str:
    """Return the text in one case and with single spaces, so that trivial variants count as one text."""
    return " ".join(text.split()).casefold()


def fraction(value: str) -> float:
    """Return a uniform number in [0, 1) that is a function of the value alone: 52 bits of its sha256."""
    return (int.from_bytes(hashlib.sha256(value.encode()).digest()[:8]) >> 12) / 2**52


def carve(frames: dict[str, pd.DataFrame], shares: Shares | None = None) -> Carved:
    """Return train, validation, test and all other splits; missing ones are carved from the train split.

    A row goes by the hash of its group. Without groups it goes by the hash of its text: labels that are strings are
    classes, and each class gives its share of texts, at least one to each split and at least one to training; a class
    of fewer texts stays in training. With groups, a class stays in training too if training would have none of it.

    A labelled validation split without a test split becomes the test (GLUE's rule), because what picks a model may not
    judge it. A text that belongs to several groups stays in the test, else in the validation split only, so that carved
    splits share no text.
    """
    splits = dict(frames)
    if "test" not in splits and "validation" in splits:
        splits["test"] = splits.pop("validation")
    missing = tuple(name for name in _CARVED if name not in splits)
    if not missing:
        return Carved(splits, (), 0, [])
    rest, shares = splits["train"], shares or Shares()
    text, texts = _codes([normalise(text) for text in rest["text"]])
    grouped = "group" in rest
    unit, units = _codes(rest["group"].astype(str)) if grouped else (text, texts)
    hashes = np.array([fraction(name) for name in units])
    label, classes = _codes(rest["label"]) if set(map(type, rest["label"])) == {str} else (None, [])
    warnings: list[str] = []
    if label is None or grouped:
        homes = _by_hash(hashes, shares)
    else:
        homes, small = _by_class(hashes, unit, label, missing, shares)
        warnings += _stays(small, label, classes, missing, "texts")
    rows, scarce = _keep_classes(homes, unit, text, label, missing)
    warnings += _stays(scarce, label, classes, missing, "groups")
    splits |= {name: rest[chosen].reset_index(drop=True) for name, chosen in rows.items()}
    further = [name for name in splits if name not in SPLITS]
    dropped = len(rest) - sum(int(chosen.sum()) for chosen in rows.values())
    return Carved({name: splits[name] for name in (*SPLITS, *further)}, missing[::-1], dropped, warnings)


def _codes(values: Iterable[str]) -> tuple[np.ndarray, Sequence[str]]:
    """The number of each value, int64 `[rows]`, and the different values, sorted: the order of rows must not matter."""
    codes, found = pd.factorize(np.array(list(values), dtype=object), sort=True)
    return codes, found.tolist()


def _by_hash(hashes: np.ndarray, shares: Shares) -> np.ndarray:
    """The split of each unit: the test has the lowest hashes, then comes validation."""
    bounds = [shares.test, shares.test + shares.validation]
    return np.array([*_CARVED, "train"])[np.searchsorted(bounds, hashes, side="right")]


def _by_class(
    hashes: np.ndarray, unit: np.ndarray, label: np.ndarray, missing: Sequence[str], shares: Shares
) -> tuple[np.ndarray, set[int]]:
    """The split of each unit, by the rank of its hash within its rarest class; and the classes that are too small."""
    pairs = pd.DataFrame({"unit": unit, "label": label}).drop_duplicates()
    sizes = np.bincount(pairs["label"])
    pairs = pairs.assign(size=sizes[pairs["label"]], hash=hashes[pairs["unit"]])
    rarest = pairs.sort_values(["size", "label"]).drop_duplicates("unit").sort_values(["hash", "unit"])
    homes = np.full(len(hashes), "train", dtype=object)
    for _, members in rarest.groupby("label")["unit"]:
        start = 0
        for name in missing if len(members) > len(missing) else ():
            count = max(1, round(getattr(shares, name) * len(members)))
            homes[members[start : start + count]] = name
            start += count
    return homes, set(np.flatnonzero(sizes <= len(missing)).tolist())


def _keep_classes(
    homes: np.ndarray, unit: np.ndarray, text: np.ndarray, label: np.ndarray | None, missing: Sequence[str]
) -> tuple[dict[str, np.ndarray], set[int]]:
    """The rows of each split, bool `[rows]`, and the classes whose units had to stay in training to occur there."""
    homes, scarce = homes.copy(), set[int]()
    while True:
        rows: dict[str, np.ndarray] = {}
        left = np.ones(len(unit), dtype=bool)
        for name in missing:
            rows[name] = left & (homes[unit] == name)
            left &= ~rows[name] & ~np.isin(text, text[rows[name]])
        rows["train"] = left
        if label is None:
            return rows, scarce
        lost = np.setdiff1d(label, label[left])
        needed = unit[np.isin(text, text[np.isin(label, lost)])]
        if (homes[needed] == "train").all():
            return rows, scarce
        homes[needed] = "train"
        scarce |= set(lost.tolist())


def _stays(
    codes: set[int], label: np.ndarray | None, classes: Sequence[str], missing: Sequence[str], kind: str
) -> list[str]:
    """The warning that these classes stay in training, if there are any."""
    if not codes or label is None:
        return []
    rows = {classes[code]: int(np.count_nonzero(label == code)) for code in codes}
    shown = [f"{listed([name])} ({counted(rows[name], 'row')})" for name in sorted(rows)[:5]]
    more = f" and {len(rows) - 5:,} more" if len(rows) > 5 else ""
    return [
        f"too few {kind} to carve from class{'es' if len(rows) > 1 else ''} {', '.join(shown)}{more}: their rows stay "
        f"in the training split, and the carved {' and '.join(missing[::-1])} data have none of them"
    ]


def carved_counts(rows: dict[str, int], shares: Shares | None = None) -> dict[str, int]:
    """The expected number of rows of the three splits after carving, given those of the splits that exist."""
    counts, shares = dict(rows), shares or Shares()
    if "test" not in counts and "validation" in counts:
        counts["test"] = counts.pop("validation")
    carved = {name: round(getattr(shares, name) * counts["train"]) for name in _CARVED if name not in counts}
    counts |= carved
    counts["train"] -= sum(carved.values())
    return {name: counts[name] for name in SPLITS}
