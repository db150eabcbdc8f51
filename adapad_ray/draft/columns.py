"""Which columns of a file hold the texts and the labels, guessed from their names and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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
_TEXTS = ("text", "sentence", "review", "content", "comment", "message", "body", "sentence1", "question", "title", "x")
"""Names of texts, the likeliest first."""
_MOST_CLASSES = 100
"""More distinct values are no classes (a project default)."""
_ROWS_PER_CLASS = 3
"""Values that occur less often on average are no classes (a project default)."""
_MOST_NUMBERS = 20
"""More distinct numbers are amounts, not classes, as `data.columns` reads them."""


@dataclass(frozen=True)
class GuessedColumns:
    """The columns of a classification or regression of texts."""

    text: str
    label: str
    type: Literal["classification", "regression"]
    others: tuple[str, ...]
    """The columns that are not read."""


def guess_columns(table: pd.DataFrame, *, text: str | None = None, label: str | None = None) -> GuessedColumns:
    """The column of labels is one with a usual name or few distinct values; that of texts has the longest values.

    Args:
        table: rows as text.
        text: the column of texts, if it is known.
        label: the column of labels, if it is known.

    Raises:
        BadRequestError: a known column does not exist, or none of the others is possible.
    """
    columns = list(map(str, table.columns))
    for field, known in (("text", text), ("label", label)):
        if known is not None and known not in columns:
            raise BadRequestError(f"the file has {no_column(field, known, columns)}")
    label = label or _label(table, [name for name in columns if name != text])
    text = text or _text(table, [name for name in columns if name != label])
    if label is None or text is None:
        missing = "labels (few distinct values, or numbers)" if label is None else "texts"
        raise BadRequestError(
            f"none of the columns {listed(columns)} looks like {missing}: name it with --text or --label"
        )
    numbers = [number_of(value) for value in table[label].dropna().astype(str)]
    amounts = None not in numbers and len(set(numbers)) > _MOST_NUMBERS
    others = tuple(name for name in columns if name not in (text, label))
    return GuessedColumns(text, label, "regression" if amounts else "classification", others)


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
