"""Tasks from what a user may write to encoded data, in two calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapad_ray.tasks.catalog.names import resolve_task
from adapad_ray.tasks.registry import TYPES
from adapad_ray.tasks.source import Source
from adapad_ray.tasks.task_data import DataLimits, RawTask, TaskData


def load_task(task: str | Source | Mapping[str, Any], data_dir: str | None = None) -> RawTask:
    """Read a task by name, or from a mapping as it stands under `task` in a sweep's file.

    Raises:
        BadRequestError: a file, column, label or split is missing or unusable.
        UnreachableError: a file does not exist, or the Hub cannot be reached.
    """
    source = resolve_task(task, data_dir)
    return TYPES[source.type].read(source)


def encode(
    raw: RawTask,
    reader: Any,
    *,
    max_length: int,
    max_train_examples: int | None = None,
    max_validation_examples: int | None = None,
    max_test_examples: int | None = None,
) -> TaskData:
    """Encode a task for a model, given its tokenizer or the format of its images (`TaskType.reader`).

    Raises:
        BadRequestError: a limit is below 1, or `max_length` leaves no room for a text or exceeds the model's limit.
    """
    limits = DataLimits(max_length, max_train_examples, max_validation_examples, max_test_examples)
    return TYPES[raw.type].encode(raw, reader, limits)
