"""Validation of user input by pydantic models, with errors of one sentence and hints about misspelt names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from adapad_ray.errors import BadRequestError

SECRET = "secret"
"""Type of a `PydanticCustomError` whose value must not be shown in the message."""
_LONGEST_KEY, _LONGEST_VALUE, _LONGEST_MESSAGE = 200, 200, 1000
_BUILT_IN = re.compile(
    r"(int|float|str|bool|none|function-\w+\(.*|(list|tuple|dict|set|constrained-\w+|nullable)\[.*\])"
)

ModelT = TypeVar("ModelT", bound=BaseModel)


def validated(
    model: type[ModelT],
    content: Any,
    where: str = "",
    *,
    missing: str = "",
    more_fields: Collection[str] = (),
) -> ModelT:
    """Return `content` as a `model`.

    Args:
        model: the expected fields.
        content: what a user wrote.
        where: its key in the user's file, such as `methods.lora`; empty for the whole file.
        missing: what a missing field's message adds, such as `every sweep needs a model`.
        more_fields: names that are valid beside the model's fields, for the hint about an unknown one.

    Raises:
        BadRequestError: the first problem, in one printable sentence: which key, which value, what would be right.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        sentence = _sentence(error.errors()[0], model, where, missing, more_fields)
        # Keys and values are repeated as written, and may hold control characters.
        raise BadRequestError("".join(c if c.isprintable() else "?" for c in sentence)) from error


def closest(name: Any, known: Iterable[Any]) -> str | None:
    """Return the name among `known` that is most like `name`, or None if none is similar."""
    written = str(name)
    similar = difflib.get_close_matches(written, [str(k) for k in known], n=3, cutoff=0.5)
    similar.sort(key=lambda k: sorted(k) != sorted(written))  # transposed letters are likelier than a missing one
    return similar[0] if similar else None


def nearest(name: Any, known: Iterable[Any]) -> str:
    """Return the end of a message about an unknown name: `did you mean lora?`, or the list of known names."""
    names = [str(k) for k in known]
    near = closest(name, names)
    return f"did you mean {near}?" if near else f"known are {', '.join(sorted(names))}"


def _sentence(
    problem: Mapping[str, Any], model: type[BaseModel], where: str, missing: str, more_fields: Collection[str]
) -> str:
    parts, fields = _locate(model, problem["loc"])
    key = ".".join([where, *parts] if where else parts)[:_LONGEST_KEY]
    if problem["type"] == "extra_forbidden":
        return f"{key} is unknown: {nearest(parts[-1], [*fields, *more_fields])}"
    if problem["type"] == "missing":
        return f"{key} is missing: {missing}" if missing and len(parts) == 1 else f"{key} is missing"
    message = problem["msg"].removeprefix("Value error, ")[:_LONGEST_MESSAGE]
    if problem["type"] == SECRET:
        return f"{key}: {message}"
    if not parts or message.startswith(f"{key}."):  # a nested model's message names its key already
        return message if message.startswith(key) or not key else f"{key}: {message}"
    message = message[:1].lower() + message[1:]
    return f"{key} is {repr(problem['input'])[:_LONGEST_VALUE]}: {message}{_literal_hint(problem)}"


def _literal_hint(problem: Mapping[str, Any]) -> str:
    """A hint about a value that is none of a few permitted texts."""
    if problem["type"] != "literal_error" or not isinstance(problem["input"], str):
        return ""
    near = closest(problem["input"], re.findall(r"'([^']*)'", problem["ctx"]["expected"]))
    return f"; did you mean {near}?" if near else ""


def _locate(model: type[BaseModel], location: Sequence[Any]) -> tuple[list[str], list[str]]:
    """The keys of an error's location without pydantic's names of union branches, and the fields of its last model."""
    parts: list[str] = []
    holders, fields = [model], list(model.model_fields)
    for step in map(str, location):
        if step in {holder.__name__ for holder in holders} or _BUILT_IN.fullmatch(step):
            continue
        parts.append(step)
        annotations = [field.annotation for holder in holders if (field := holder.model_fields.get(step))]
        inner = [cls for annotation in annotations for cls in _models(annotation)]
        if inner:
            holders, fields = inner, list(dict.fromkeys(name for cls in inner for name in cls.model_fields))
    return parts, fields


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models in a type annotation, such as `dict[str, A] | list[B] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
