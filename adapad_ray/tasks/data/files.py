"""Reading local files: the file of exactly this name, the named columns alone, every value as its text in the file.

Nothing is cached, so that a file's rows are always those of its present content.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from adapad_ray.assets import file_digest
from adapad_ray.errors import BadRequestError
from adapad_ray.files import DATA_SUFFIXES, check_data_file
from adapad_ray.tasks.data.delimited import read_csv, read_tsv
from adapad_ray.tasks.data.json_rows import read_json
from adapad_ray.tasks.data.parquet import read_parquet
from adapad_ray.tasks.data.tables import Columns, FileError, Tables

_OF_TEXT: dict[str, Callable[[str, Columns], pd.DataFrame]] = {
    ".jsonl": read_json,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
}
_PARQUET = ".parquet"
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),  # begins with UTF-16's mark
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_ARCHIVES = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip, as .xlsx files are"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstandard"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"\xd0\xcf\x11\xe0", "an old file of Office, such as .xls"),
    (b"PAR1", "Parquet"),
    (b"ARROW1", "Arrow"),
    (b"SQLite format 3", "an SQLite database"),
)
_NO_TEXT = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
"""Control characters, which no text in an encoding of single bytes has."""
_JAPANESE = re.compile(rb"\x1b\$[@B]")
"""The beginning of Japanese text in ISO-2022-JP, all of whose bytes are those of UTF-8 too."""


def read_files(name: str, files: Mapping[str, str], columns: Columns) -> Tables:
    """Reads one file per split.

    Args:
        name: of the data, for people.
        files: split → path.
        columns: what the task needs; other columns are not read.

    Raises:
        BadRequestError: a file cannot be read, or lacks a column.
        UnreachableError: a file does not exist.
    """
    splits = {split: _read_file(path, split, columns) for split, path in files.items()}
    digest = hashlib.sha256()
    for split, path in files.items():
        digest.update(f"{split} {file_digest(Path(os.path.expanduser(path)))}\n".encode())
    return Tables(name, splits, digest.hexdigest())


def _read_file(given: str, split: str, columns: Columns) -> pd.DataFrame:
    path = Path(os.path.expanduser(given))
    check_data_file(given, split)
    suffix = path.suffix.lower()
    if suffix not in DATA_SUFFIXES:
        known = ", ".join(DATA_SUFFIXES)
        raise BadRequestError(f"the {split} file {given!r} ends in {path.suffix!r}: use one of {known}")
    try:
        if suffix == _PARQUET:
            return read_parquet(path, columns)
        return _OF_TEXT[suffix](decode(path.read_bytes()), columns)
    except FileError as error:
        raise BadRequestError(f"the {split} file {given!r} {error}") from error
    except OSError as error:
        raise BadRequestError(f"the {split} file {given!r} cannot be opened: {error.strerror or error}") from error


def decode(content: bytes) -> str:
    """The text of a file in UTF-8, with or without its mark at the beginning.

    Raises:
        FileError: it is empty, or something else.
    """
    if not content.strip():
        raise FileError("is empty")
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            raise FileError(f"is in {encoding}: save it as UTF-8")
    for mark, kind in _ARCHIVES:
        if content.startswith(mark):
            raise FileError(f"is no text but {kind}: unpack it, or name it by what it is")
    if content.startswith(b"version https://git-lfs.github.com/"):
        raise FileError("is a pointer of Git LFS: run `git lfs pull`")
    if b"\0" in re.split(rb"[\r\n]", content, maxsplit=1)[0]:  # names of columns and JSON's signs have one in UTF-16
        raise FileError("is in UTF-16 without its mark, or no text: save it as UTF-8")
    if _JAPANESE.search(content):
        raise FileError("is in ISO-2022-JP: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if _NO_TEXT.search(content[:2000]):
            raise FileError("is no text: unpack or convert it, or name it by what it is") from error
        line = content.count(b"\n", 0, error.start) + 1
        raise FileError(
            f"is not in UTF-8 (byte 0x{content[error.start]:02x} in line {line:,} is the first that is not): save it "
            "as UTF-8, for example with `iconv -f ENCODING -t utf-8`, where ENCODING is the one that it was written in"
        ) from error
