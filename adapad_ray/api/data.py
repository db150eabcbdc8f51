"""From what the user has in memory to a task: the columns of text and label, and the type of task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import TYPES, RawTask, load_task, parse_source
from adapad_ray.tasks.data.memory import tables_of
from adapad_ray.tasks.data.tables import Tables, labels_are_withheld, no_column
from adapad_ray.tasks.rows import RowTask
from adapad_ray.wording import listed

_LABELS = ("label", "labels")
_FIRST_TEXTS = ("text", "sentence", "sentence1", "question", "premise")


def read_task(
    dataset: Any, *, text: str | None = None, label: str | None = None, task: str | Mapping[str, Any] | None = None
) -> RawTask:
    """Read data in memory, or a task that goes by a name.

    Args:
        dataset: as for `memory.tables_of`, or the name of a task (`adapad list tasks`).
        text: the column of texts; default: found by its name, or the longer one of two columns.
        label: the column of labels; default: found likewise.
        task: a task type, or the fields under `task` in a sweep's file that the data do not say themselves; default:
            regression for labels that are fractions, else classification.

    Raises:
        BadRequestError: a column or split is missing or unusable, or the columns cannot be found.
    """
    if isinstance(dataset, str):
        if text or label or task:
            raise BadRequestError(f"text, label and task are for data in memory: task {dataset!r} has its own")
        return load_task(dataset)
    if dataset is None:
        raise BadRequestError("there is no dataset: pass a DataFrame, a datasets.Dataset, or the name of a task")
    found = tables_of(dataset)
    given = {"type": task} if isinstance(task, str) else dict(task or {})
    given |= {name: column for name, column in (("text", text), ("label", label)) if column is not None}
    kind = TYPES.get(str(given.get("type", "classification")))
    if kind is None or {"text", "label"} <= kind.Source.model_fields.keys():
        given = _found(found.splits["train"], given)
    source: Any = parse_source({"train": found.name, **given})
    reader = TYPES[source.type]
    if not isinstance(reader, RowTask):
        raise BadRequestError(f"task.type {source.type} reads no rows: it goes by its name, as dataset={source.type!r}")
    tables = {
        split: table
        for split, table in found.splits.items()
        if split == "train" or not labels_are_withheld(table, getattr(source, "label", None))
    }
    return reader.read_tables(source, Tables(found.name, tables, found.digest))


def _found(train: pd.DataFrame, given: dict[str, Any]) -> dict[str, Any]:
    """`given` with `text`, `label` and `type`, where the user has not said them."""
    columns = list(map(str, train.columns))
    for field in ("text", "label"):
        if field in given and str(given[field]) not in columns:
            raise BadRequestError(f"the train data have {no_column(field, str(given[field]), columns)}")
    label = given.get("label") or next((name for name in _LABELS if name in columns), None)
    text = given.get("text") or next((name for name in _FIRST_TEXTS if name in columns and name != label), None)
    rest = [name for name in columns if name not in (text, label)]
    if len(columns) == 2 and text is None and label is None:
        text = max(columns, key=lambda name: _mean_length(train, name))
        label = next(name for name in columns if name != text)
    elif len(rest) == 1 and (text is None) != (label is None):
        text, label = text or rest[0], label or rest[0]
    if text is None or label is None:
        raise BadRequestError(
            f"the data have the columns {listed(columns)}: say which holds the texts and which the labels, as in "
            f"text={columns[0]!r}, label={columns[-1]!r}"
        )
    kind = "regression" if label in columns and _are_fractions(train[label]) else "classification"
    return {"type": kind, **given, "text": text, "label": label}


def _mean_length(table: pd.DataFrame, column: str) -> float:
    return float(table[column].astype(str).str.len().mean())


def _are_fractions(values: pd.Series) -> bool:
    return bool(pd.api.types.is_float_dtype(values) and (values.dropna() % 1 != 0).any())
