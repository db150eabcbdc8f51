"""Rows of JSON Lines, and of an array of objects in JSON. Numbers keep the spelling of the file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from adapad_ray.tasks.data.tables import Columns, FileError, check_names, doubtful_names, named, table_of, warn


class _RepeatedKey(ValueError):
    """A key occurs twice in one object."""


def read_json(content: str, columns: Columns) -> pd.DataFrame:
    """The named columns of the rows of a file. Numbers, `true` and `false` are texts; null and NaN are None.

    Raises:
        FileError: a row is no object, or has a key twice; or a column is in no row.
    """
    values: dict[str, list[Any]] = {name: [] for name in named(columns)}
    keys: dict[str, None] = {}
    for row in _rows(content):
        if not row.keys() <= keys.keys():
            keys |= dict.fromkeys(row)
        for name, column in values.items():
            value = row.get(name)
            column.append(str(value).lower() if value is True or value is False else value)
    if not keys:
        raise FileError("has no rows")
    check_names(columns, list(keys))
    table = table_of(values)
    warn(table, *doubtful_names(columns, keys))
    return table


def json_keys(content: str) -> list[str]:
    """The keys of all rows of a file, in the order in which they come.

    Raises:
        FileError: a row is no object, or has a key twice.
    """
    return list(dict.fromkeys(key for row in _rows(content) for key in row))


def _rows(content: str) -> Iterator[dict[str, Any]]:
    for place, row in _array(content) if content.lstrip().startswith("[") else _lines(content):
        if not isinstance(row, dict):
            raise FileError(f"holds {str(row)[:40]!r} in {place}: a row is an object, as {{'text': …, 'label': …}}")
        yield row


def _lines(content: str) -> Iterator[tuple[str, Any]]:
    parse = _decoder().decode
    for number, line in enumerate(re.split(r"\r\n?|\n", content), 1):
        if line and not line.isspace():
            yield f"line {number:,}", _parsed(parse, line, number)


def _array(content: str) -> Iterator[tuple[str, Any]]:
    rows = _parsed(_decoder().decode, content, 1)
    return ((f"row {number:,}", row) for number, row in enumerate(rows, 1))


def _parsed(parse: Callable[[str], Any], content: str, line: int) -> Any:
    """The value of JSON that begins in this line."""
    try:
        return parse(content)
    except json.JSONDecodeError as error:
        raise FileError(
            f"could not be read as JSON ({error.msg} in line {line + error.lineno - 1:,}): it takes one object per "
            "line, or an array of objects"
        ) from error
    except RecursionError as error:
        raise FileError(f"is nested too deeply (from line {line:,}): rows are objects of texts and numbers") from error
    except _RepeatedKey as error:
        raise FileError(f"has the key {str(error)!r} twice in one object (from line {line:,}): keep one") from error


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(
        parse_float=str,
        parse_int=str,
        parse_constant=lambda name: None if name == "NaN" else name,
        object_pairs_hook=_object,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKey(next(name for name in names if names.count(name) > 1))
    return found
