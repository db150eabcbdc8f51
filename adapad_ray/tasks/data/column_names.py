"""The names of all columns of a local file, for those who do not know them yet."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from adapad_ray.tasks.data.files import decode
from adapad_ray.tasks.data.json_rows import json_keys
from adapad_ray.tasks.data.tables import FileError


def names_in_file(path: str) -> list[str]:
    """The columns of a file; none if it cannot be read."""
    try:
        return column_names(Path(os.path.expanduser(path)))
    except (FileError, OSError, ValueError):
        return []


def column_names(path: Path) -> list[str]:
    """The columns of a CSV, TSV, JSON, JSON Lines or Parquet file.

    Raises:
        FileError: it is empty, or not what its name says.
        OSError: it cannot be opened.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            return list(pyarrow.parquet.read_schema(path).names)
        except pyarrow.ArrowException as error:
            raise FileError(f"could not be read as Parquet ({str(error).splitlines()[0].rstrip('.')})") from error
    content = decode(path.read_bytes())
    if suffix in (".json", ".jsonl"):
        return json_keys(content)
    lines = csv.reader(io.StringIO(content, newline=""), delimiter="\t" if suffix == ".tsv" else ",")
    return next((fields for fields in lines if fields), [])
