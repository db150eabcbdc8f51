"""Validation of user input by pydantic models, with errors of one sentence and hints about misspelt names.

Two things are stricter or looser than pydantic: `true` is no number, and a whole number is text where text is wanted,
such as the name of a column.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from adapad_ray.errors import BadRequestError
from adapad_ray.spelling import closest, nearest

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
    elsewhere: Mapping[str, str] | None = None,
) -> ModelT:
    """Return `content` as a `model`.

    Args:
        model: the expected fields.
        content: what a user wrote.
        where: its key in the user's file, such as `methods.lora`; empty for the whole file.
        missing: what a missing field's message adds, such as `every sweep needs a model`.
        more_fields: names that are valid beside the model's fields, for the hint about an unknown one.
        elsewhere: names that are valid in other places of the file → their full keys, for the same hint.

    Raises:
        BadRequestError: the first problem, in one printable sentence: which key, which value, what would be right.
    """
    try:
        value = model.model_validate(_with_text(model, content))
    except ValidationError as error:
        sentence = _sentence(error.errors()[0], model, where, missing, more_fields, elsewhere)
        # Keys and values are repeated as written, and may hold control characters.
        raise BadRequestError("".join(c if c.isprintable() else "?" for c in sentence)) from error
    for parts, written in _truths_as_numbers(content, value):
        key = ".".join([where, *parts] if where else parts)[:_LONGEST_KEY]
        raise BadRequestError(f"{key} is {written}: input should be a number, not {str(written).lower()}")
    return value


def _with_text(model: type[BaseModel], content: Any) -> Any:
    """`content` with whole numbers as text where a field is text: YAML reads the name of a column `2024` as a number.

    Other numbers are left to be refused: `1.10` would become `1.1`.
    """
    if not isinstance(content, Mapping):
        return content
    texts = {name for name, field in model.model_fields.items() if _is_text(field.annotation)}
    return {key: str(value) if key in texts and type(value) is int else value for key, value in content.items()}


def _is_text(annotation: Any) -> bool:
    """Whether an annotation is `str` or `str | None`."""
    if get_origin(annotation) in (Union, UnionType):
        return set(get_args(annotation)) == {str, NoneType}
    return annotation is str


def _truths_as_numbers(content: Any, value: Any) -> Iterator[tuple[list[str], bool]]:
    """The keys of `true` and `false` in `content` that became numbers in `value`, which pydantic allows."""
    if isinstance(content, bool):
        if not isinstance(value, bool):
            yield [], content
    elif isinstance(content, Mapping):
        fields = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
        for key, part in content.items():
            if key in fields:
                yield from (([str(key), *parts], written) for parts, written in _truths_as_numbers(part, fields[key]))
    elif isinstance(content, list) and isinstance(value, (list, tuple)):
        for number, (part, inner) in enumerate(zip(content, value, strict=False)):
            yield from (([str(number), *parts], written) for parts, written in _truths_as_numbers(part, inner))


def _sentence(
    problem: Mapping[str, Any],
    model: type[BaseModel],
    where: str,
    missing: str,
    more_fields: Collection[str],
    elsewhere: Mapping[str, str] | None,
) -> str:
    parts, fields = _locate(model, problem["loc"])
    key = ".".join([where, *parts] if where else parts)[:_LONGEST_KEY]
    if problem["type"] == "extra_forbidden":
        return f"{key} is unknown: {nearest(parts[-1], [*fields, *more_fields], elsewhere)}"
    if problem["type"] == "missing":
        return f"{key} is missing: {missing}" if missing and len(parts) == 1 else f"{key} is missing"
    message = re.sub("^Input ", "input ", problem["msg"].removeprefix("Value error, "))[:_LONGEST_MESSAGE]
    if problem["type"] in ("model_type", "dict_type", "mapping_type"):
        message = "input should be a mapping, as {name: value}"
    if problem["type"] == SECRET:
        return f"{key}: {message}"
    if not parts or message.startswith(f"{key}."):  # a nested model's message names its key already
        return message if message.startswith(key) or not key else f"{key}: {message}"
    message = message[:1].lower() + message[1:]
    return f"{key} is {repr(problem['input'])[:_LONGEST_VALUE]}: {message}{_hint(problem)}"


def _hint(problem: Mapping[str, Any]) -> str:
    """A hint about a value that is none of a few permitted texts, or about text that YAML took for something else."""
    if problem["type"] == "string_type" and isinstance(problem["input"], (bool, int, float)):
        return "; write it in quotes"
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
