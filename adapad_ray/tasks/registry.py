"""The task types, by the value of `task.type`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.base import TaskType
from adapad_ray.tasks.source import Source
from adapad_ray.tasks.types.bilinear import Bilinear
from adapad_ray.tasks.types.chat import Chat
from adapad_ray.tasks.types.choice import Choice
from adapad_ray.tasks.types.classification import Classification
from adapad_ray.tasks.types.generation import Generation
from adapad_ray.tasks.types.image import Image
from adapad_ray.tasks.types.regression import Regression
from adapad_ray.tasks.types.span import Span
from adapad_ray.validation import validated

_ALL: tuple[TaskType[Any], ...] = (
    Classification(),
    Regression(),
    Span(),
    Choice(),
    Generation(),
    Chat(),
    Image(),
    Bilinear(),
)
TYPES: dict[str, TaskType[Any]] = {kind.name: kind for kind in _ALL}


def parse_source(mapping: Mapping[str, Any]) -> Source:
    """Return the source that a mapping describes; its `type` is classification by default.

    Raises:
        BadRequestError: a field is unknown, missing or unusable.
    """
    name = mapping.get("type", "classification")
    if not isinstance(name, str) or name not in TYPES:
        raise BadRequestError(f"task.type {name!r} is unknown: use one of {', '.join(TYPES)}")
    source: Source = validated(TYPES[name].Source, dict(mapping), "task", missing=f"a {name} task needs it")
    return source
