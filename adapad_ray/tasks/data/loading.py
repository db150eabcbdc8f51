"""Reading a task's data into checked splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapad_ray.assets import Asset
from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.base import RawTask
from adapad_ray.tasks.data.catalog import DIGITS, read_packaged, resolve_task
from adapad_ray.tasks.data.splits import carve
from adapad_ray.tasks.data.tables import name_of, read_tables
from adapad_ray.tasks.registry import TYPES
from adapad_ray.tasks.source import BilinearSource, DataSource
from adapad_ray.tasks.types.image import read_digits


def load_task(source: str | DataSource | Mapping[str, Any] | Asset, data_dir: str | None = None) -> RawTask:
    """Read a task, check it, and return it with three splits, and further tests where the source names some.

    Raises:
        BadRequestError: a file, column, label or split is missing or unusable.
        UnreachableError: the data are on the Hub, which cannot be reached, or in a file that is not there.
    """
    task = resolve_task(source, data_dir)
    if isinstance(task, BilinearSource):
        raise BadRequestError("task bilinear has no rows to read: make_bilinear makes its data")
    if isinstance(task, Asset):
        name, tables, digest, task = read_packaged(task)
    elif task.type == "image" and task.train == DIGITS:
        name, (tables, digest) = DIGITS, read_digits()
    else:
        name, (tables, digest) = name_of(task), read_tables(task)
    kind = TYPES[task.type]
    splits = carve({split: kind.select(table, task, split) for split, table in tables.items()})
    for split, frame in splits.items():
        if frame.empty:
            raise BadRequestError(
                f"the {split} split of task {name!r} is empty: give it a file of its own or more training data"
            )
    labelled, label_names = kind.label(splits, task, name)
    return RawTask(name, label_names, kind.metric(task), labelled, digest, kind.name, task)
