"""Checks and conversions of a table's columns: texts, groups, and classes as numbers."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from adapad_ray.errors import BadRequestError


def require_columns(table: pd.DataFrame, wanted: Mapping[str, str | None], split: str) -> None:
    """Check that columns exist and are full.

    Args:
        table: the rows of one split.
        wanted: the task's field → the column that it names, or None where it names none.
        split: for messages.

    Raises:
        BadRequestError: a column is missing, or empty in some rows.
    """
    for field, column in wanted.items():
        if column is None:
            continue
        if column not in table:
            raise BadRequestError(
                f"the {split} data have no column {column!r} for {field!r}: available are {', '.join(map(str, table))}"
            )
        if nulls := int(table[column].isna().sum()):
            raise BadRequestError(
                f"column {column!r} of the {split} data is empty in {nulls:,} of {len(table):,} rows: fill or drop them"
            )


def with_group(frame: pd.DataFrame, table: pd.DataFrame, column: str | None) -> pd.DataFrame:
    """The frame with the table's `column` as its `group`, as strings; both have the same rows."""
    return frame if column is None else frame.assign(group=table[column].astype(str).to_numpy())


def classes_as_text(values: pd.Series, column: str, split: str) -> pd.Series:
    """Classes as strings, whole floats like integers, so that files of different types agree.

    Raises:
        BadRequestError: a value is a fraction.
    """
    if pd.api.types.is_float_dtype(values):
        fractional = values[values != values.round()]
        if len(fractional):
            raise BadRequestError(
                f"column {column!r} of the {split} data holds {fractional.iloc[0]}: labels are classes, not numbers"
            )
        values = values.astype("int64")
    return values.map(str)


def number_classes(splits: Mapping[str, pd.DataFrame], task: str) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
    """Splits whose `label` is the number of a class, and the names of the classes: those of the training split.

    Raises:
        BadRequestError: the training split has one class only, or another split has one that it lacks.
    """
    names = sort_classes(set(splits["train"]["label"]))
    if len(names) < 2:
        raise BadRequestError(f"task {task!r} has one label in training, {names[0]!r}: it takes at least two")
    return {split: encode_classes(frame, names, split) for split, frame in splits.items()}, names


def sort_classes(names: set[str]) -> tuple[str, ...]:
    """Names of classes sorted as integers if all are, else as text."""
    try:
        return tuple(sorted(names, key=int))
    except ValueError:
        return tuple(sorted(names))


def encode_classes(frame: pd.DataFrame, names: tuple[str, ...], split: str) -> pd.DataFrame:
    """The frame with the position of each `label` among `names`, int64.

    Raises:
        BadRequestError: a label is not among them.
    """
    unknown = sorted(set(frame["label"]) - set(names))
    if unknown:
        raise BadRequestError(
            f"the {split} split holds labels that training lacks ({', '.join(unknown[:5])}): "
            f"known are {', '.join(names)}"
        )
    codes = {name: index for index, name in enumerate(names)}
    return frame.assign(label=frame["label"].map(codes).astype("int64"))
