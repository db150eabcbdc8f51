"""Rows of Parquet files, with the types that they declare."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from adapad_ray.tasks.data.tables import Columns, FileError, check_names, doubtful_names, named, warn


def read_parquet(path: Path, columns: Columns) -> pd.DataFrame:
    """The named columns; an index that pandas has stored is a column like others.

    Raises:
        FileError: the file is damaged, has no rows, or lacks a column.
        OSError: it cannot be opened.
    """
    import pyarrow
    import pyarrow.parquet

    with path.open("rb") as file:  # pyarrow would take the names of folders for columns, and more than the one file
        try:
            parquet = pyarrow.parquet.ParquetFile(file)
            check_names(columns, parquet.schema_arrow.names)
            wanted = named(columns)
            table = parquet.read(columns=wanted).select(wanted)
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise FileError(f"could not be read as Parquet ({reason})") from error
    if not table.num_rows:
        raise FileError("has no rows")
    for i, column in enumerate(table.columns):
        if pyarrow.types.is_dictionary(column.type):
            table = table.set_column(i, wanted[i], column.cast(column.type.value_type))
    # Whole numbers beside nulls would become floats, and those above 2^53 other numbers.
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True, integer_object_nulls=True)
    warn(frame, *doubtful_names(columns, parquet.schema_arrow.names))
    return frame
