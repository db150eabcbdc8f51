"""The types of tasks that a sweep's file may name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.base import TaskType
from adapad_ray.tasks.source import BilinearSource, DataSource
from adapad_ray.tasks.types.choice import Choice
from adapad_ray.tasks.types.classification import Classification
from adapad_ray.tasks.types.generation import Generation
from adapad_ray.tasks.types.image import Image
from adapad_ray.tasks.types.regression import Regression
from adapad_ray.tasks.types.span import Span

TYPES: dict[str, TaskType[Any]] = {
    kind.name: kind for kind in (Classification(), Regression(), Span(), Choice(), Generation(), Image())
}


def parse_source(mapping: Mapping[str, Any]) -> DataSource | BilinearSource:
    """Return the source that a mapping describes; its `type` is classification where it says none.

    Raises:
        BadRequestError: a field is unknown, missing or unusable.
    """
    name = mapping.get("type", "classification")
    model: type[DataSource] | type[BilinearSource]
    if name == "bilinear":
        model = BilinearSource
    elif isinstance(name, str) and name in TYPES:
        model = TYPES[name].Source
    else:
        raise BadRequestError(f"task.type {name!r} is unknown: use one of {', '.join([*TYPES, 'bilinear'])}")
    try:
        return model.model_validate(dict(mapping))
    except ValidationError as error:
        raise BadRequestError(_explain(error, model)) from error


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        fields = list(model.model_fields)
        nearest = difflib.get_close_matches(key, fields, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        return f"task has no field {key!r}: {hint}it takes {', '.join(fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    if problem["type"] == "missing":
        return f"task field {key!r} is missing: a {problem['input'].get('type', 'classification')} task needs it"
    return f"task field {key!r} is {problem['input']!r}: {message[:1].lower()}{message[1:]}"
