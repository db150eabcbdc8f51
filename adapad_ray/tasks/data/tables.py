"""What a reader of rows returns, and which columns it is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from adapad_ray.spelling import closest
from adapad_ray.wording import listed

Columns = dict[str, str | None]
"""Field of the task → the column that it names, or None where it names none."""


class Tables(NamedTuple):
    """The rows of a task as they were found."""

    name: str
    """Of the data, for people."""
    splits: dict[str, pd.DataFrame]
    """`train`, `validation` and `test` as far as there are any, further tests as `test_<name>`."""
    digest: str
    """sha256 over the files, or over the rows where they come from the Hub."""


WARNINGS = "warnings"
"""The entry of a table's `attrs` with sentences about what may be misread in its file."""


def warn(table: pd.DataFrame, *messages: str) -> None:
    """Adds sentences to a table's warnings."""
    if messages:
        table.attrs[WARNINGS] = [*table.attrs.get(WARNINGS, []), *messages]


class FileError(ValueError):
    """A file cannot be read. The message is a clause whose subject is the file: `has no rows`."""


def named(columns: Columns) -> list[str]:
    """The columns that fields name, each once."""
    return list(dict.fromkeys(column for column in columns.values() if column is not None))


def check_names(columns: Columns, available: Sequence[str]) -> None:
    """Check that every named column exists once among those of a file.

    Raises:
        FileError: it does not.
    """
    for field, column in columns.items():
        if column is None:
            continue
        if column not in available:
            raise FileError(f"has {no_column(field, column, available)}")
        if available.count(column) > 1:
            raise FileError(
                f"has {available.count(column)} columns called {column!r}, the one for {field!r}: rename or drop one"
            )


def doubtful_names(columns: Columns, available: Iterable[str]) -> list[str]:
    """Warnings about columns beside the named ones whose names differ from theirs in case and spaces alone."""
    alike = [(name, other) for name in named(columns) for other in available if other != name and _same(name, other)]
    return [f"columns {name!r} and {other!r} differ in case or spaces alone: {name!r} is read" for name, other in alike]


def _same(name: str, other: str) -> bool:
    return " ".join(name.split()).casefold() == " ".join(other.split()).casefold()


def no_column(field: str, column: str, available: Sequence[str]) -> str:
    """The words about a column that is not among those available, with the one that is probably meant."""
    near = closest(column, available)
    hint = "" if near is None else f"; did you mean {near!r}?"
    return f"no column {column!r} for {field!r}: available are {listed(available)}{hint}"


def table_of(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """A table of Python objects as they are: pandas guesses no types."""
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})


def rows_digest(tables: Mapping[str, pd.DataFrame]) -> str:
    """sha256 over the rows of every split."""
    digest = hashlib.sha256()
    for split, table in tables.items():
        rows = table.to_json(default_handler=repr)
        digest.update(f"{split} {hashlib.sha256(rows.encode()).hexdigest()}\n".encode())
    return digest.hexdigest()


def labels_are_withheld(table: pd.DataFrame, label: str | None) -> bool:
    """Whether every label is -1, as the Hub writes where labels are withheld, for instance in GLUE's test sets."""
    return label in table and bool((table[label].astype(str) == "-1").all())
