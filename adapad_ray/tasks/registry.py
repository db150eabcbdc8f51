"""The types of tasks that a sweep's file may name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.base import TaskType
from adapad_ray.tasks.source import BilinearSource, DataSource
from adapad_ray.tasks.types.choice import Choice
from adapad_ray.tasks.types.classification import Classification
from adapad_ray.tasks.types.generation import Generation
from adapad_ray.tasks.types.image import Image
from adapad_ray.tasks.types.regression import Regression
from adapad_ray.tasks.types.span import Span
from adapad_ray.validation import validated

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
    return validated(model, dict(mapping), "task", missing=f"a {name} task needs it")
