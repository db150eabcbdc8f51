"""Rows of CSV and TSV files, every field as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import pandas as pd

from adapad_ray.tasks.data.columns import number_of
from adapad_ray.tasks.data.tables import Columns, FileError, check_names, doubtful_names, named, table_of, warn
from adapad_ray.wording import counted

_QUOTE = '"'
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}

_FEW = 5
"""Rows per value of a column whose values repeat (a project default)."""
_ENOUGH = 10
"""Rows that show whether a column's values repeat (a project default)."""


class _QuotesError(FileError):
    """Quotation marks do not enclose fields."""


class _Record(NamedTuple):
    """One row, or an empty line (no fields)."""

    first: int
    """Line in which it begins, from 1."""
    last: int
    fields: list[str]


def read_csv(content: str, columns: Columns) -> pd.DataFrame:
    """The named columns of a file with commas, and in its `attrs` warnings; empty fields are None.

    Fields with a comma, a line break or a quotation mark at their beginning must be in double quotes, with quotation
    marks inside doubled (RFC 4180).

    Raises:
        FileError: a column is missing, quotation marks are not paired, or a row has too many or too few fields.
    """
    with _long_fields():
        table = _select(_quoted(content, ","), content, ",", columns)
    _warn_of_kept_marks(table, "a space stands before or after them: delete it", lambda value: value.strip(" "))
    return table


def read_tsv(content: str, columns: Columns) -> pd.DataFrame:
    """The named columns of a file with tabs, and in its `attrs` warnings; empty fields are None.

    Some programs write quotation marks as they are, others put fields into them as in CSV. The file shows which: if
    every line has as many fields as the header, quotation marks are characters like others, unless they pair up and
    either every field in them has a reason for them or some field is `""`, or they enclose all values of a column.
    Values that keep quotation marks around them are warned about.

    Raises:
        FileError: as for `read_csv`.
    """
    plain = list(_plain(content))
    if _QUOTE not in content:
        return _select(plain, content, "\t", columns)
    rows = [record.fields for record in plain if record.fields]
    even = all(len(fields) == len(rows[0]) for fields in rows)
    encloses_column = even and any(all(map(_enclosed, column)) for column in zip(*rows[1:], strict=True))
    try:
        with _long_fields():
            quoted = list(_quoted(content, "\t"))
        same_rows = sum(bool(record.fields) for record in quoted) == len(rows)
        if even and not encloses_column and same_rows and not _reasons(rows):
            return _literal(plain, content, columns)
        return _select(quoted, content, "\t", columns)
    except _QuotesError:
        if not even or encloses_column:
            raise
    return _literal(plain, content, columns)


def _literal(plain: Sequence[_Record], content: str, columns: Columns) -> pd.DataFrame:
    """The named columns with quotation marks as characters, and a warning if they enclose values."""
    table = _select(plain, content, "\t", columns)
    reason = "not all of the file's values are quoted: quote all or none of them if they are no part of the values"
    _warn_of_kept_marks(table, reason)
    return table


def _warn_of_kept_marks(table: pd.DataFrame, reason: str, bare: Callable[[str], str] | None = None) -> None:
    """Warns of values in quotation marks, or of those that `bare` changes and shows to be in quotation marks."""
    for name in table:
        values = [value for value in table[name] if value is not None and _QUOTE in value]
        if bare is None:
            kept = [value for value in values if _enclosed(value)]
        else:
            kept = [value for value in values if value != bare(value) and _enclosed(bare(value))]
        if kept:
            warn(
                table,
                f"{len(kept):,} of {counted(len(table), 'value')} of column {name!r} keep the quotation marks around "
                f"them, such as {_shortened(kept[0])}, because {reason}",
            )


def _shortened(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:39]}…"


def _enclosed(field: str) -> bool:
    return len(field) > 1 and field[0] == field[-1] == _QUOTE


def _reasons(rows: Sequence[Sequence[str]]) -> bool:
    """Whether all fields in quotation marks contain what programs quote: a quotation mark or, for Excel, a comma.

    Spark and Polars write an empty text as `""`, and nothing else looks like it.
    """
    enclosed = [field[1:-1] for fields in rows for field in fields if _enclosed(field)]
    return "" in enclosed or all(_QUOTE in inner or "," in inner for inner in enclosed)


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
        if len(fields) > 1 and [fields[0].removeprefix("\ufeff"), *fields[1:]] == header:
            raise FileError(f"repeats its header in line {first:,}, as joined files do: delete that line")
        if needed >= len(fields) or (len(fields) > len(header) and any(fields[len(header) :])):
            raise FileError(
                f"has {counted(len(fields), 'field')} in line {first:,} and {len(header)} in its header: put texts "
                "that contain the separator or a line break in double quotes"
            )
        if last > first:
            long.append((len(values[0]) if values else 0, _Record(first, last, fields)))
        for column, position in zip(values, positions, strict=True):
            column.append(fields[position] or None)
    if values and not values[0]:
        raise FileError("has no rows")
    table = table_of(dict(zip(wanted, values, strict=True)))
    warn(table, *doubtful_names(columns, header))
    if long:
        doubtful = _swallowed(
            long, list(_lines(content)), separator, len(header), dict(zip(positions, values, strict=True))
        )
        if doubtful:
            others = len(doubtful) - 1
            more = f" (so {'is' if others == 1 else 'are'} {counted(others, 'more group')} of lines)" if others else ""
            message = (
                f"lines {doubtful[0].first:,} to {doubtful[0].last:,} are read as one value because of quotation "
                f"marks{more}; each could be a row by itself: if so, write a quotation mark inside a text twice and "
                "put the text in double quotes"
            )
            warn(table, message)
    return table


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


def _swallowed(
    long: Sequence[tuple[int, _Record]],
    lines: Sequence[str],
    separator: str,
    width: int,
    values: dict[int, list[str | None]],
) -> list[_Record]:
    """Rows over several lines of which a stray quotation mark may have made one.

    It may have, if every line that is not empty is a row by itself whose values look like those of other rows. It has,
    if a column whose values repeat, such as the label's, has the value of each line in other rows too.

    Args:
        long: position among the rows, and record, of every row that goes over several lines.
        lines: of the file.
        separator: of fields.
        width: fields of the header.
        values: position of a column → its values.

    Raises:
        _QuotesError: a stray quotation mark has made one row of several.
    """
    candidates = []
    for _, record in long:
        span = [text for line in lines[record.first - 1 : record.last] if (text := line.rstrip("\r\n"))]
        parts = [_fields(line, separator, width) for line in span]
        if len(parts) > 1 and all(part and all(part[position] for position in values) for part in parts):
            candidates.append((record, parts))
    if not candidates:
        return []
    rows_over_lines = {index for index, _ in long}
    looks = {
        position: _Look.of([value for index, value in enumerate(column) if index not in rows_over_lines])
        for position, column in values.items()
    }
    doubtful = []
    for record, parts in candidates:
        if any(look.repeat and all(part[at] in look.known for part in parts) for at, look in looks.items()):
            raise _QuotesError(
                f"has a quotation mark in line {record.first:,} that is closed in line {record.last:,}, and each of "
                "these lines is a row by itself: write a quotation mark inside a text twice and put the text in double "
                "quotes"
            )
        if all(look.fits(part[at]) for at, look in looks.items() for part in parts):
            doubtful.append(record)
    return doubtful


def _fields(line: str, separator: str, width: int) -> list[str]:
    """The fields of a line that is a row by itself; none if it is no such row."""
    fields = line.split(separator)
    if len(fields) != width and _QUOTE in line:  # other fields of the line may be quoted
        fields = next(csv.reader([line], delimiter=separator), [])
    return fields if len(fields) == width else []


class _Look(NamedTuple):
    """What values of a column look like."""

    known: set[str]
    repeat: bool
    numbers: bool
    padded: bool
    """Whether some begin or end with spaces."""
    longest: int

    @classmethod
    def of(cls, values: Sequence[str | None]) -> _Look:
        given = [value for value in values if value is not None]
        known = set(given)
        return cls(
            known,
            len(given) >= max(_ENOUGH, _FEW * len(known)),
            bool(known) and all(number_of(value) is not None for value in known),
            any(value != value.strip() for value in known),
            max(map(len, known), default=0),
        )

    def fits(self, value: str) -> bool:
        """Whether a value looks like the others; a class may be rare, but is no sentence."""
        if value in self.known:
            return True
        if (self.numbers and number_of(value) is None) or (self.repeat and len(value) > 2 * self.longest):
            return False
        return self.padded or value == value.strip()


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
