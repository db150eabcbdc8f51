"""Carving splits by a hash of the content: the same for every order of rows, seed and machine."""

from __future__ import annotations

import hashlib
from typing import Annotated, NamedTuple, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from adapad_ray.tasks.data.tables import listed

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
    texts = rest["text"].map(normalise)
    classes = rest["label"] if len(rest) and all(isinstance(label, str) for label in rest["label"]) else None
    units = rest["group"].astype(str) if "group" in rest else texts
    hashes = units.drop_duplicates()
    hashes = pd.Series([fraction(unit) for unit in hashes], index=hashes)
    warnings: list[str] = []
    if classes is None or "group" in rest:
        homes = _by_hash(hashes, shares)
    else:
        homes, small = _by_class(hashes, units, classes, missing, shares)
        warnings += _stays(small, classes, missing)
    return _assign(splits, missing, units, texts, classes, homes, warnings)


def _by_hash(hashes: pd.Series, shares: Shares) -> pd.Series:
    """The split of each unit: the test has the lowest hashes, then comes validation."""
    bounds = [-np.inf, shares.test, shares.test + shares.validation, np.inf]
    return pd.Series(
        np.array([*_CARVED, "train"])[np.searchsorted(bounds[1:3], hashes, side="right")], index=hashes.index
    )


def _by_class(
    hashes: pd.Series, units: pd.Series, classes: pd.Series, missing: tuple[str, ...], shares: Shares
) -> tuple[pd.Series, list[str]]:
    """The split of each unit, by rank of its hash within its rarest class; and the classes that are too small."""
    pairs = pd.DataFrame({"unit": units, "class": classes}).drop_duplicates()
    sizes = pairs["class"].value_counts()
    pairs = pairs.assign(size=pairs["class"].map(sizes), hash=pairs["unit"].map(hashes))
    rarest = pairs.sort_values(["size", "class"]).drop_duplicates("unit").sort_values(["hash", "unit"])
    homes = pd.Series("train", index=hashes.index)
    for _, members in rarest.groupby("class", sort=False):
        start = 0
        for name in missing if len(members) > len(missing) else ():
            count = max(1, round(getattr(shares, name) * len(members)))
            homes[members["unit"].iloc[start : start + count]] = name
            start += count
    return homes, [name for name in sorted(sizes.index) if sizes[name] <= len(missing)]


def _assign(
    splits: dict[str, pd.DataFrame],
    missing: tuple[str, ...],
    units: pd.Series,
    texts: pd.Series,
    classes: pd.Series | None,
    homes: pd.Series,
    warnings: list[str],
) -> Carved:
    """Carve the training rows as `homes` says, but keep in training what a class needs to occur there."""
    rest, kept, scarce = splits["train"], set[str](), set[str]()
    while True:
        home = units.map(homes.mask(homes.index.isin(kept), "train")).to_numpy()
        left = np.ones(len(rest), dtype=bool)
        chosen: dict[str, np.ndarray] = {}
        for name in missing:
            chosen[name] = left & (home == name)
            left &= ~chosen[name] & ~texts.isin(texts[chosen[name]]).to_numpy()
        lost = set() if classes is None else set(classes) - set(classes[left])
        needed = set() if classes is None else set(units[texts.isin(texts[classes.isin(lost)])]) - kept
        if not needed:
            break
        kept |= needed
        scarce |= lost
    if classes is not None and scarce:
        warnings = [*warnings, *_stays(sorted(scarce), classes, missing, "groups")]
    splits |= {name: rest[rows].reset_index(drop=True) for name, rows in chosen.items()}
    splits["train"] = rest[left].reset_index(drop=True)
    further = [name for name in splits if name not in SPLITS]
    dropped = len(rest) - int(left.sum()) - sum(int(rows.sum()) for rows in chosen.values())
    return Carved({name: splits[name] for name in (*SPLITS, *further)}, missing[::-1], dropped, warnings)


def _stays(names: list[str], classes: pd.Series, missing: tuple[str, ...], kind: str = "texts") -> list[str]:
    """The warning that these classes stay in training, if there are any."""
    if not names:
        return []
    shown = [f"{listed([name])} ({int((classes == name).sum()):,} rows)" for name in names[:5]]
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return [
        f"too few {kind} to carve from class{'es' if len(names) > 1 else ''} {', '.join(shown)}{more}: their rows stay "
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
