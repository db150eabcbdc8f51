"""What a user says about a task: which files or data set, and which columns."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from adapad_ray.errors import BadRequestError

SPLITS = ("train", "validation", "test")


class TaskSource(BaseModel):
    """Sequence classification over one or two text columns, from local files or a data set of the Hub.

    With `dataset`, the fields `train`, `validation` and `test` name splits of it; otherwise they are paths of
    jsonl, json, csv, tsv or parquet files. Only the training data are required: missing splits are carved from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["classification"] = "classification"
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    dataset: str | None = None
    subset: str | None = None
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    group: str | None = None
    """Column whose values must not be torn apart when splits are carved, such as a document or an author."""
    metric: Literal["accuracy", "f1", "macro_f1", "matthews"] = "accuracy"

    @model_validator(mode="after")
    def _has_training_data(self) -> TaskSource:
        if self.train is None and self.dataset is None:
            raise ValueError("a task needs `train` (a file) or `dataset` (a name on the Hub), and has neither")
        if self.subset is not None and self.dataset is None:
            raise ValueError(f"subset {self.subset!r} belongs to a `dataset`, and there is none")
        return self


def parse_source(mapping: Mapping[str, Any]) -> TaskSource:
    """Return the source that a mapping describes.

    Raises:
        BadRequestError: a field is unknown, missing or unusable.
    """
    try:
        return TaskSource.model_validate(dict(mapping))
    except ValidationError as error:
        raise BadRequestError(_explain(error)) from error


def _explain(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        fields = list(TaskSource.model_fields)
        nearest = difflib.get_close_matches(key, fields, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        return f"task has no field {key!r}: {hint}it takes {', '.join(fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"task field {key!r} is {problem['input']!r}: {message[:1].lower()}{message[1:]}"
