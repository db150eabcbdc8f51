"""Rows that are in memory: tables of pandas, and data sets of the `datasets` library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.tables import Tables, rows_digest

NAME = "data in memory"
_SPLITS = ("train", "validation", "test")


def tables_of(dataset: Any) -> Tables:
    """The rows of every split. Classes of `datasets` (`ClassLabel`) become their names.

    Args:
        dataset: a pandas `DataFrame` or a `datasets.Dataset` as the training data, or a mapping of the splits `train`,
            `validation` and `test` to such, as `DatasetDict` is.

    Raises:
        BadRequestError: it is something else, has no training data, or a split of another name.
    """
    splits = dict(dataset) if isinstance(dataset, Mapping) else {"train": dataset}
    unknown = sorted(map(str, splits.keys() - {*_SPLITS}))
    if unknown or "train" not in splits:
        have = ", ".join(map(repr, splits))
        raise BadRequestError(
            f"the splits of the data are {have}: name them train, validation and test (missing ones are carved)"
        )
    tables = {split: _table(splits[split], split) for split in _SPLITS if split in splits}
    return Tables(NAME, tables, rows_digest(tables))


def _table(rows: Any, split: str) -> pd.DataFrame:
    if isinstance(rows, pd.DataFrame):
        return rows.reset_index(drop=True).rename(columns=str)
    if not (hasattr(rows, "to_pandas") and hasattr(rows, "features")):
        raise BadRequestError(
            f"the {split} data are a {type(rows).__name__}: pass a pandas DataFrame or a datasets.Dataset, not streamed"
        )
    table = pd.DataFrame(rows.to_pandas())
    for column, feature in rows.features.items():
        names = getattr(feature, "names", None)
        if isinstance(names, list) and pd.api.types.is_integer_dtype(table[column]):
            codes = table[column].to_numpy()
            table[column] = np.where(codes < 0, "-1", np.array(names, dtype=object)[np.clip(codes, 0, None)])
    return table
