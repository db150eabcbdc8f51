"""Rows of CSV and TSV files, every field as text."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pandas as pd

from adapad_ray.tasks.data.tables import Columns, FileError, check_names, named, table_of

_QUOTE = '"'
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


_FEW = 10
"""Rows per value of a column whose values repeat (a project default)."""

logger = logging.getLogger(__name__)


class _QuotesError(FileError):
    """Quotation marks do not enclose fields."""


class _Record(NamedTuple):
    """One row, or an empty line (no fields)."""

    first: int
    """Line in which it begins, from 1."""
    last: int
    fields: list[str]


def read_csv(content: str, columns: Columns) -> pd.DataFrame:
    """The named columns of a file with commas; empty fields are None.

    Fields with a comma, a line break or a quotation mark at their beginning must be in double quotes, with quotation
    marks inside doubled (RFC 4180).

    Raises:
        FileError: a column is missing, quotation marks are not paired, or a row has too many or too few fields.
    """
    with _long_fields():
        return _select(_quoted(content, ","), content, ",", columns)


def read_tsv(content: str, columns: Columns) -> pd.DataFrame:
    """The named columns of a file with tabs; empty fields are None.

    Some programs write quotation marks as they are, others put fields into them as in CSV. The file shows which: if
    every line has as many fields as the header, quotation marks are characters like others, unless they pair up and
    every field in them has a reason for them, or they enclose a whole column.

    Raises:
        FileError: as for `read_csv`.
    """
    plain = list(_plain(content))
    if _QUOTE not in content:
        return _select(plain, content, "\t", columns)
    rows = [record.fields for record in plain if record.fields]
    even = all(len(fields) == len(rows[0]) for fields in rows)
    encloses_column = even and any(all(map(_enclosed, column)) for column in zip(*rows, strict=True))
    try:
        with _long_fields():
            quoted = list(_quoted(content, "\t"))
        same_rows = sum(bool(record.fields) for record in quoted) == len(rows)
        if even and not encloses_column and same_rows and not _reasons(rows):
            return _select(plain, content, "\t", columns)
        return _select(quoted, content, "\t", columns)
    except _QuotesError:
        if not even or encloses_column:
            raise
    return _select(plain, content, "\t", columns)


def _enclosed(field: str) -> bool:
    return len(field) > 1 and field[0] == field[-1] == _QUOTE


def _reasons(rows: Sequence[Sequence[str]]) -> bool:
    """Whether all fields in quotation marks contain what programs quote: a quotation mark or, for Excel, a comma."""
    enclosed = (field[1:-1] for fields in rows for field in fields if _enclosed(field))
    return all(_QUOTE in inner or "," in inner for inner in enclosed)


def _plain(content: str) -> Iterator[_Record]:
    """Lines cut at every tab."""
    for number, line in enumerate(_lines(content), 1):
        text = line.rstrip("\r\n")
        yield _Record(number, number, text.split("\t") if text else [])


def _quoted(content: str, separator: str) -> Iterator[_Record]:
    reader = csv.reader(_lines(content), delimiter=separator, strict=True)
    first = 1
    try:
        for fields in reader:
            yield _Record(first, reader.line_num, fields)
            first = reader.line_num + 1
    except csv.Error as error:
        if "unexpected end" in str(error):
            found = f"a quotation mark in line {first:,} that is never closed"
        else:
            found = (
                f"a quotation mark in line {first:,} that is closed in line {reader.line_num:,} before its field ends"
            )
        raise _QuotesError(
            f"has {found}: put such a text in double quotes and write every quotation mark inside it twice"
        ) from error


def _select(found: Iterable[_Record], content: str, separator: str, columns: Columns) -> pd.DataFrame:
    records = iter(found)
    header = next((record.fields for record in records if record.fields), [])
    _check_separator(header, separator, columns)
    check_names(columns, header)
    wanted = named(columns)
    positions = [header.index(name) for name in wanted]
    needed = max(positions, default=-1)
    values: list[list[str | None]] = [[] for _ in positions]
    long: list[tuple[int, _Record]] = []
    for first, last, fields in records:
        if not fields:
            continue
        if needed >= len(fields) or (len(fields) > len(header) and any(fields[len(header) :])):
            raise FileError(
                f"has {len(fields)} fields in line {first:,} and {len(header)} in its header: put texts that contain "
                "the separator or a line break in double quotes"
            )
        if last > first:
            long.append((len(values[0]) if values else 0, _Record(first, last, fields)))
        for column, position in zip(values, positions, strict=True):
            column.append(fields[position] or None)
    if values and not values[0]:
        raise FileError("has no rows")
    if long:
        _check_swallowed(long, list(_lines(content)), separator, len(header), dict(zip(positions, values, strict=True)))
    return table_of(dict(zip(wanted, values, strict=True)))


def _check_separator(header: Sequence[str], separator: str, columns: Columns) -> None:
    """Check that no other separator gives the named columns."""
    wanted = set(named(columns))
    line = separator.join(header)
    if wanted <= set(header):
        return
    if line.startswith("sep="):
        raise FileError(f"begins with Excel's line {line!r}: delete it")
    for other, plural in _SEPARATORS.items():
        names = {name.strip(f"{_QUOTE} ") for name in line.split(other)}
        if other != separator and other in line and wanted <= names:
            endings = {",": "name it .csv", "\t": "name it .tsv"}
            remedy = endings.get(other, f"save it with {_SEPARATORS[separator]}")
            raise FileError(f"is separated by {plural}, not by {_SEPARATORS[separator]}: {remedy}")


def _check_swallowed(
    long: Sequence[tuple[int, _Record]],
    lines: Sequence[str],
    separator: str,
    width: int,
    values: dict[int, list[str | None]],
) -> None:
    """Check that no stray quotation mark has made one field of several rows.

    It has, if every line of a row that goes over several lines is a full row by itself, with a value that other rows
    have too in a column whose values repeat, such as the label's. Without such a column, a warning is logged.

    Args:
        long: position among the rows, and record, of every row that goes over several lines.
        lines: of the file.
        separator: of fields.
        width: fields of the header.
        values: position of a column → its values.
    """
    rows_over_lines = {index for index, _ in long}
    repeated: dict[int, set[str | None]] = {}
    for position, column in values.items():
        others = [value for index, value in enumerate(column) if index not in rows_over_lines]
        if _FEW * len(known := set(others)) <= len(others):
            repeated[position] = known
    doubtful = []
    for _, record in long:
        parts = [line.rstrip("\r\n").split(separator) for line in lines[record.first - 1 : record.last]]
        if any(len(part) != width for part in parts):
            continue
        if any(all(part[position] in known for part in parts) for position, known in repeated.items()):
            raise _QuotesError(
                f"has a quotation mark in line {record.first:,} that is closed in line {record.last:,}, and each of "
                "these lines is a row by itself: write a quotation mark inside a text twice and put the text in double "
                "quotes"
            )
        if len(parts) > 2 and not repeated:
            doubtful.append(record)
    if doubtful:
        logger.warning(
            "%s fields in quotation marks, the first in lines %s to %s, could be rows of their own: check them",
            len(doubtful),
            doubtful[0].first,
            doubtful[0].last,
        )


def _lines(content: str) -> io.StringIO:
    """Lines with their ends, which are \\n, \\r\\n or \\r."""
    return io.StringIO(content, newline="")


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lets fields be longer than the 131,072 characters that Python's reader allows."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
