"""From what the user has in memory to a task: the columns of text and label, and the type of task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import TYPES, RawTask, load_task, parse_source
from adapad_ray.tasks.data.chat_columns import conversations_in
from adapad_ray.tasks.data.guessed_columns import guess_columns
from adapad_ray.tasks.data.memory import tables_of
from adapad_ray.tasks.data.tables import Tables, labels_are_withheld
from adapad_ray.tasks.rows import RowTask
from adapad_ray.wording import listed


def read_task(
    dataset: Any, *, text: str | None = None, label: str | None = None, task: str | Mapping[str, Any] | None = None
) -> RawTask:
    """Read data in memory, or a task that goes by a name.

    Args:
        dataset: as for `memory.tables_of`, or the name of a task (`adapad list tasks`).
        text: the column of texts; default: found by its name, or the other of two columns.
        label: the column of labels; default: found likewise.
        task: a task type, or the fields under `task` in a sweep's file that the data do not say themselves; default:
            chat for conversations, regression for labels that are amounts, else classification.

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
    text, label = (None if name not in given else str(given[name]) for name in ("text", "label"))
    if not given and conversations_in(train) is not None:
        return {"type": "chat"}
    found = guess_columns(train, text=text, label=label)
    if not found.certain:
        raise BadRequestError(
            f"the data have the columns {listed(map(str, train.columns))}: say which holds the texts and which the "
            f"labels, as in text={found.text!r}, label={found.label!r}"
        )
    return {"type": found.type, **given, "text": found.text, "label": found.label}
