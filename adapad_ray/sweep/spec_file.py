"""Reads a sweep's file and applies overrides from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapad_ray.errors import BadRequestError
from adapad_ray.safe_yaml import LONGEST_TEXT, read_yaml
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.sweep.spec_checks import check_spec
from adapad_ray.validation import validated


def load_spec(path: Path | str, overrides: Sequence[str] = ()) -> SweepSpec:
    """Reads a sweep's file and applies `key=value` overrides (dotted keys, values in YAML).

    Raises:
        BadRequestError: one sentence about the first problem.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(LONGEST_TEXT + 1)
    except OSError as error:
        raise BadRequestError(f"sweep file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadRequestError(f"sweep file {path} is not valid YAML: {error}") from error
    content = read_yaml(text, f"sweep file {path}")
    if not isinstance(content, dict):
        raise BadRequestError(f"sweep file {path} must be a mapping with model, task, methods and budgets")
    for override in overrides:
        _apply(content, override)
    content.setdefault("name", path.stem)
    return parse_spec(content)


def parse_spec(content: Mapping[str, Any]) -> SweepSpec:
    """Validates the content of a sweep's file, method settings included.

    Raises:
        BadRequestError: one sentence about the first problem.
    """
    content = dict(content)
    if isinstance(content.get("methods"), dict):
        content["methods"] = {label: entry or {} for label, entry in content["methods"].items()}  # `lora:` in YAML
    spec = validated(SweepSpec, content, missing="every sweep needs model, task, methods and budgets")
    check_spec(spec)
    return spec


def _apply(content: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise BadRequestError(f"override {override!r} is not key=value, as in training.epochs=2 or seeds=[0,1]")
    value = read_yaml(text, f"override {override[:100]!r}")
    *outer, last = key.split(".")
    mapping = content
    for name in outer:
        mapping = mapping.setdefault(name, {})
        if not isinstance(mapping, dict):
            raise BadRequestError(f"override {override!r}: {name} holds a value, not a mapping")
    mapping[last] = value
