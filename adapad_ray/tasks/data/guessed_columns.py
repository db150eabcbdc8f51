"""Which columns of a table hold the texts and the labels, guessed from their names and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.columns import number_of
from adapad_ray.tasks.data.tables import no_column
from adapad_ray.wording import listed

_LABELS = (
    "label",
    "labels",
    "class",
    "target",
    "category",
    "sentiment",
    "stars",
    "rating",
    "score",
    "intent",
    "topic",
    "y",
)
"""Names of labels, the likeliest first."""
_TEXTS = (
    "text",
    "sentence",
    "review",
    "content",
    "comment",
    "message",
    "body",
    "sentence1",
    "question",
    "premise",
    "title",
    "x",
)
"""Names of texts, the likeliest first."""
_MOST_CLASSES = 100
"""More distinct values are no classes (a project default)."""
_ROWS_PER_CLASS = 3
"""Values that occur less often on average are no classes (a project default)."""
_MOST_NUMBERS = 20
"""More distinct numbers are amounts, unless they number classes from 0, as `data.columns` reads them."""


@dataclass(frozen=True)
class GuessedColumns:
    """The columns of a classification or regression of texts."""

    text: str
    label: str
    type: Literal["classification", "regression"]
    others: tuple[str, ...]
    """The columns that are not read."""
    certain: bool = True
    """Whether names decide, or there is no other column; else values do."""


def guess_columns(table: pd.DataFrame, *, text: str | None = None, label: str | None = None) -> GuessedColumns:
    """The column of labels is one with a usual name or few distinct values; that of texts has the longest values.

    Args:
        table: rows as they are in a file or in memory; columns of lists or objects hold neither.
        text: the column of texts, if it is known.
        label: the column of labels, if it is known.

    Raises:
        BadRequestError: a known column does not exist, or none of the others is possible.
    """
    columns = list(map(str, table.columns))
    for field, known in (("text", text), ("label", label)):
        if known is not None and known not in columns:
            raise BadRequestError(f"the data have {no_column(field, known, columns)}")
    possible = [name for name in columns if _scalar(table[name])]
    found_label = label or _label(table, [name for name in possible if name != text])
    found_text = text or _text(table, [name for name in possible if name != found_label])
    if found_label is None or found_text is None:
        missing = "labels (few distinct values, or numbers)" if found_label is None else "texts"
        raise BadRequestError(
            f"none of the columns {listed(columns)} looks like {missing}: pass its name as text or label"
        )
    others = tuple(name for name in columns if name not in (found_text, found_label))
    certain = not others or all(
        known is not None or _usual(found, usual)
        for known, found, usual in ((text, found_text, _TEXTS), (label, found_label, _LABELS))
    )
    kind: Literal["classification", "regression"] = "classification"
    if _amounts(table[found_label]):
        kind = "regression"
    return GuessedColumns(found_text, found_label, kind, others, certain)


def _amounts(values: pd.Series) -> bool:
    """Whether values are numbers, and too many or too broken to number classes."""
    numbers = [number_of(value) for value in values.dropna().astype(str)]
    distinct = {number for number in numbers if number is not None}
    if None in numbers or not distinct:
        return False
    if not all(number.is_integer() for number in distinct):
        return True
    counts_from_0 = distinct == set(map(float, range(len(distinct))))
    classes = counts_from_0 and len(distinct) <= min(_MOST_CLASSES, len(numbers) // _ROWS_PER_CLASS)
    return len(distinct) > _MOST_NUMBERS and not classes


def _scalar(values: pd.Series) -> bool:
    return not any(isinstance(value, list | tuple | set | Mapping | np.ndarray | bytes) for value in values)


def _usual(column: str, usual: tuple[str, ...]) -> bool:
    return column.strip().casefold() in usual


def _label(table: pd.DataFrame, columns: list[str]) -> str | None:
    possible = [name for name in columns if _may_be_label(table[name])]
    named = _by_name(possible, _LABELS)
    return named or min(possible, key=lambda name: (_numeric(table[name]), table[name].nunique()), default=None)


def _may_be_label(values: pd.Series) -> bool:
    distinct = values.nunique()
    classes = 2 <= distinct <= min(_MOST_CLASSES, max(2, len(values) // _ROWS_PER_CLASS))
    return classes or (distinct > 1 and _numeric(values) and not _counts_rows(values))


def _text(table: pd.DataFrame, columns: list[str]) -> str | None:
    possible = [name for name in columns if not _numeric(table[name]) and table[name].nunique() > 1]
    lengths = {name: table[name].astype(str).str.len().mean() for name in possible}
    named = _by_name(possible, _TEXTS)
    if named is not None and lengths[named] >= 0.5 * max(lengths.values()):
        return named
    return max(possible, key=lengths.__getitem__, default=None)


def _by_name(columns: list[str], usual: tuple[str, ...]) -> str | None:
    known = {name.strip().casefold(): name for name in reversed(columns)}
    return next((known[name] for name in usual if name in known), None)


def _numeric(values: Any) -> bool:
    given = values.dropna().astype(str)
    return bool(len(given)) and all(number_of(value) is not None for value in given)


def _counts_rows(values: pd.Series) -> bool:
    """Whether a column numbers the rows: whole numbers, each once."""
    return values.is_unique and all(float(value).is_integer() for value in values.dropna())
