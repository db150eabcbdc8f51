"""Checks and conversions of a table's columns: texts, groups, and classes as numbers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any

import numpy as np
import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.tables import Columns, no_column
from adapad_ray.wording import counted

_MISSING = ("", "nan", "NaN", "NA", "<NA>", "NaT", "None", "NULL", "null", "#N/A")
"""What programs write for a value that is missing; each may be the name of a class too."""
_MOST_FRACTIONS = 20
"""Classes called by fractions, such as half stars; more count as numbers of a regression (a project default)."""


def require_columns(table: pd.DataFrame, wanted: Columns, split: str) -> None:
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
            raise BadRequestError(f"the {split} data have {no_column(field, column, list(map(str, table)))}")
        _refuse_empty(table[column].isna().to_numpy(), column, split)


def as_text(values: pd.Series, column: str, split: str) -> list[str]:
    """Every value as text: `true` and `false` of Parquet in lower case, other types as Python spells them.

    Raises:
        BadRequestError: a value is a list, an object or binary, or no valid Unicode.
    """
    if pd.api.types.is_bool_dtype(values):
        return [str(value).lower() for value in values]
    if values.dtype.kind in "mM":  # pandas would write the times of day of all rows if one has any
        return [str(value).removesuffix(" 00:00:00") for value in values]
    texts = values.astype(str).tolist() if not _holds_objects(values) else values.tolist()
    if set(map(type, texts)) - {str}:
        texts = [text_of(value, column, split, row) for row, value in enumerate(texts, 1)]
    for row, text in enumerate(texts, 1) if not all(map(str.isascii, texts)) else ():
        if not (text.isascii() or is_unicode(text)):
            raise BadRequestError(
                f"column {column!r} of the {split} data holds half a surrogate pair in row {row:,} "
                f"({ascii(text)[:60]}): write the whole character"
            )
    return texts


def text_of(value: Any, column: str, split: str, row: int) -> str:
    """One value as text.

    Raises:
        BadRequestError: it is a list, an object, binary or missing.
    """
    if type(value) is str:
        return value
    if isinstance(value, (list, tuple, np.ndarray, Mapping, set)):
        kind = "an object" if isinstance(value, Mapping) else "a list"
        shown = value.tolist() if isinstance(value, np.ndarray) else value
        raise BadRequestError(
            f"column {column!r} of the {split} data holds {kind} in row {row:,} ({str(shown)[:60]}): it takes one text "
            "or number per row"
        )
    if value is None or value != value:
        raise BadRequestError(f"column {column!r} of the {split} data holds no value in row {row:,}: drop such rows")
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise BadRequestError(
                f"column {column!r} of the {split} data holds binary data in row {row:,}: it takes texts"
            ) from error
    return str(value).lower() if isinstance(value, (bool, np.bool_)) else str(value)


def with_group(frame: pd.DataFrame, table: pd.DataFrame, column: str | None, split: str) -> pd.DataFrame:
    """The frame with the table's `column` as its `group`, as strings; both have the same rows."""
    return frame if column is None else frame.assign(group=as_text(table[column], column, split))


def classes_as_text(values: pd.Series, column: str, split: str) -> list[str]:
    """Classes as strings, whole floats of Parquet like integers, so that files of different types agree.

    Raises:
        BadRequestError: a value is no class: empty, a list or an object; or they are numbers instead of classes.
    """
    texts = as_text(values, column, split)
    if pd.api.types.is_float_dtype(values):
        texts = [str(int(v)) if v.is_integer() else text for v, text in zip(values.tolist(), texts, strict=True)]
    _refuse_empty(np.array([text == "" for text in texts]), column, split)
    names = set(texts)
    if len(names) > _MOST_FRACTIONS and (fraction := _fraction_of_numbers(sorted(names))):
        raise BadRequestError(
            f"column {column!r} of the {split} data holds {fraction} and {len(names) - 1:,} other numbers: labels are "
            "classes, not numbers; use task.type=regression for numbers"
        )
    return texts


def number_classes(
    splits: Mapping[str, pd.DataFrame], task: str, column: str
) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
    """Splits whose `label` is the number of a class, and the names of the classes: those of the training split.

    Raises:
        BadRequestError: the training split has one class only, or another split has a class that it lacks.
    """
    names = sort_classes(set(splits["train"]["label"]))
    if len(names) < 2:
        raise BadRequestError(f"task {task!r} has one label in training, {names[0]!r}: it takes at least two")
    return {split: encode_classes(frame, names, split) for split, frame in splits.items()}, names


def sort_classes(names: set[str]) -> tuple[str, ...]:
    """Names of classes sorted as integers if all are, else as text."""
    try:
        return tuple(sorted(names, key=lambda name: (int(name), name)))
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
            f"known are {', '.join(names)}{spelling_hint(unknown, names)}"
        )
    codes = {name: index for index, name in enumerate(names)}
    return frame.assign(label=frame["label"].map(codes).astype("int64"))


def spelling_hint(unknown: Iterable[str], names: Iterable[str]) -> str:
    """The end of a message about unknown labels: the first that differs from a known one in spelling alone."""
    known = {_spelling(name): name for name in names}
    for label in unknown:
        if near := known.get(_spelling(label)):
            return f"; {label!r} and {near!r} differ in spelling alone: write them alike"
    return ""


def doubtful_classes(names: Iterable[str]) -> list[str]:
    """Warnings about classes that may not be meant: blanks, fractions, and several spellings of one name."""
    missing = [name for name in names if name.strip() in _MISSING]
    warnings = [f"a class is called {name!r}: is it a missing value?" for name in missing]
    if fraction := _fraction_of_numbers(names):
        warnings.append(
            f"classes are called by numbers such as {fraction}: use task.type=regression if they are amounts"
        )
    by_spelling: dict[str, list[str]] = {}
    for name in names:
        by_spelling.setdefault(_spelling(name), []).append(name)
    for group in by_spelling.values():
        if len(group) > 1:
            alike = " and ".join(map(repr, group))
            warnings.append(
                f"{alike} are {len(group)} classes that differ in spelling alone: write them alike if they are one"
            )
    return warnings


def _refuse_empty(empty: np.ndarray, column: str, split: str) -> None:
    if count := int(empty.sum()):
        raise BadRequestError(
            f"column {column!r} of the {split} data is empty in {count:,} of {counted(len(empty), 'row')}, first "
            f"in row {int(empty.argmax()) + 1:,} (headers and empty lines are not counted): fill or drop them"
        )


def _holds_objects(values: pd.Series) -> bool:
    return bool(pd.api.types.is_object_dtype(values))


def is_unicode(text: str) -> bool:
    """Whether a text holds no half of a surrogate pair, which cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _spelling(name: str) -> str:
    """What is left of a name without case, spaces, invisible characters, composition, and ways to write a number."""
    visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    plain = " ".join(visible.split()).casefold()
    return plain if number_of(plain) is None else str(exact_number(plain))


def _fraction_of_numbers(names: Iterable[str]) -> str | None:
    """The first name that is a fraction, if all are numbers."""
    numbers = {name: number_of(name) for name in names}
    if any(number is None for number in numbers.values()):
        return None
    return next((name for name, number in numbers.items() if number is not None and not number.is_integer()), None)


def exact_number(text: str) -> Decimal:
    """The number that a text spells, for which `number_of` returns one, in its only shortest form.

    As floats, whole numbers above 2^53 would meet their neighbours.
    """
    context = Context(prec=max(1, len(text)), Emax=MAX_EMAX, Emin=MIN_EMIN)
    return context.normalize(context.plus(Decimal(text)))  # plus: -0 is 0


def number_of(text: str) -> float | None:
    """The finite number that a text spells, or None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) and "_" not in text else None
