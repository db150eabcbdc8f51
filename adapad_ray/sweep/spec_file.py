"""Reads a sweep's file and applies overrides from the command line.

Only validation needs the methods, and torch with them: reading imports nothing slow.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from adapad_ray.errors import BadRequestError
from adapad_ray.safe_yaml import LONGEST_TEXT, read_yaml
from adapad_ray.spelling import meant
from adapad_ray.validation import validated

if TYPE_CHECKING:
    from adapad_ray.sweep.spec import SweepSpec

NEEDED = "model, task, methods and budgets"


def load_spec(path: Path | str, overrides: Sequence[str] = ()) -> SweepSpec:
    """Reads a sweep's file, applies `key=value` overrides, and validates the result.

    Raises:
        BadRequestError: one sentence about the first problem.
    """
    return parse_spec(read_content(path, overrides))


def read_content(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a sweep's file and applies `key=value` overrides (dotted keys, values in YAML), without validation.

    Raises:
        BadRequestError: the file cannot be read, holds no mapping, or an override is none.
    """
    path = Path(path)
    content = read_yaml(_text(path), f"sweep file {path}")
    if content is None:
        raise BadRequestError(f"sweep file {path} is empty: every sweep needs {NEEDED}")
    if not isinstance(content, dict):
        raise BadRequestError(f"sweep file {path} must be a mapping with {NEEDED}")
    return overridden(content, overrides, name=path.stem)


def overridden(content: Mapping[str, Any], overrides: Sequence[str], *, name: str) -> dict[str, Any]:
    """The content of a sweep's file after `key=value` overrides, with `name` if it has none.

    Raises:
        BadRequestError: an override is none.
    """
    result = _with_sections(content)
    _apply(result, overrides)
    result.setdefault("name", name)
    return result


def parse_spec(content: Mapping[str, Any]) -> SweepSpec:
    """Validates the content of a sweep's file, method settings included.

    Raises:
        BadRequestError: one sentence about the first problem.
    """
    from adapad_ray.sweep.spec import SweepSpec
    from adapad_ray.sweep.spec_checks import check_spec

    content = _with_sections(content)
    missing = f"every sweep needs {NEEDED}"
    spec = validated(SweepSpec, content, missing=missing, elsewhere=_setting_keys(content))
    check_spec(spec)
    return spec


def _text(path: Path) -> str:
    """The first characters of a file, at least one more than `read_yaml` accepts."""
    try:
        with path.open("rb") as file:
            raw = file.read(4 * LONGEST_TEXT + 4)
    except OSError as error:
        raise BadRequestError(f"sweep file {path} cannot be read: {error.strerror}") from error
    try:
        return raw.decode("utf-8-sig", errors="ignore" if len(raw) > 4 * LONGEST_TEXT else "strict")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise BadRequestError(
            f"sweep file {path} is not UTF-8 (byte 0x{raw[error.start]:02x} on line {line}): save it as UTF-8"
        ) from error


def _with_sections(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` without fields that were left empty, and with `methods` and `resources` as mappings.

    `resources: auto` is `{gpus_per_worker: auto}`. `lora`, `[lora, adapad]` and `[lora, adapad: {local_steps: 2}]` are
    methods too.

    Raises:
        BadRequestError: a list of methods names one twice.
    """
    content = {key: value for key, value in content.items() if value is not None}
    if content.get("resources") == "auto":
        content["resources"] = {"gpus_per_worker": "auto"}
    methods = content.get("methods")
    if isinstance(methods, str):
        methods = [methods]
    if isinstance(methods, list):
        pairs = [pair for part in methods for pair in (part.items() if isinstance(part, Mapping) else [(part, None)])]
        if not all(isinstance(label, str) for label, _ in pairs):
            return content  # refused with all else that is no method
        for label, count in Counter(label for label, _ in pairs).items():
            if count > 1:
                raise BadRequestError(f"methods has {label} twice: remove one, or add a word of your own ({label}/b)")
        methods = dict(pairs)
    if isinstance(methods, Mapping):
        content["methods"] = {label: {} if entry is None else entry for label, entry in methods.items()}
    return content


def _setting_keys(content: Mapping[str, Any]) -> dict[str, str]:
    """Name of a setting → its full key, such as `epochs` → `training.epochs`; of several, the likeliest.

    Args:
        content: the file's, not yet validated.
    """
    from adapad_ray.methods import METHODS
    from adapad_ray.search.settings import SearchStage, TuneStage
    from adapad_ray.sweep.spec import CheckpointPeriod, Resources, SweepSpec
    from adapad_ray.tasks.registry import TYPES
    from adapad_ray.training.settings import TrainingSettings

    sections: list[tuple[str, type[BaseModel]]] = [("training.", TrainingSettings), ("resources.", Resources)]
    labels = {label.split("/")[0]: label for label in reversed(_strings(content.get("methods")))}  # the first of each
    sections += [(f"methods.{label}.", METHODS[name].Config) for name, label in labels.items() if name in METHODS]
    task = content.get("task")
    kind = TYPES.get(str(task.get("type", ""))) if isinstance(task, Mapping) else None
    sections.append(("task.", (kind or TYPES["classification"]).Source))
    sections += [("checkpoint.", CheckpointPeriod), ("tune.", TuneStage), ("search.", SearchStage)]
    keys = {name: name for name in SweepSpec.model_fields}
    for prefix, section in sections:
        for name in section.model_fields:
            if meant(name, SweepSpec.model_fields) is None:  # `seed` outside tune means seeds
                keys.setdefault(name, prefix + name)
    return keys


def _strings(names: Any) -> list[str]:
    return [name for name in names if isinstance(name, str)] if isinstance(names, Iterable) else []


def _apply(content: dict[str, Any], overrides: Sequence[str]) -> None:
    """Sets the values of the overrides in `content`. Of two with the same key the later one counts, as for options."""
    applied: dict[tuple[str, ...], str] = {}
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not key:
            raise BadRequestError(f"override {override!r} is not key=value, as in training.epochs=2 or seeds=[0,1]")
        value = read_yaml(text, f"override {override[:100]!r}")
        if "#" in text and _ends_in_comment(text, value):
            raise BadRequestError(f"override {override[:100]!r} has a comment (#): quote its value for YAML too")
        if text.lstrip().startswith("&"):  # the name of an anchor would be dropped
            raise BadRequestError(
                f"override {override[:100]!r} begins with an anchor (&): quote its value for YAML too"
            )
        path = _path(content, key.strip())
        for other, earlier in applied.items():
            if other != path and other[: len(path)] == path:
                raise BadRequestError(f"override {override[:100]!r} undoes {earlier[:100]!r}: put it first")
        applied[path] = override
        mapping = content
        for name in path[:-1]:
            inner = mapping.get(name)
            mapping[name] = {} if inner is None else dict(inner) if isinstance(inner, dict) else inner
            mapping = mapping[name]
            if not isinstance(mapping, dict):
                raise BadRequestError(f"override {override!r}: {name} holds a value, not a mapping")
        if value is None and len(path) == 2 and path[0] == "methods":
            _remove_method(content, path[1])
            continue
        mapping[path[-1]] = value
        if path == ("methods",):
            content.update(_with_sections({"methods": value}))


def _remove_method(content: Mapping[str, Any], label: str) -> None:
    """`methods.lora/qv=null`: with the settings of its method left empty, the label would be another method."""
    if label not in content["methods"]:
        has = ", ".join(content["methods"]) or "none"
        raise BadRequestError(
            f"override methods.{label}=null removes a method that the file does not have; it has {has}. "
            f"methods.{label}={{}} adds it"
        )
    del content["methods"][label]


def _ends_in_comment(text: str, value: Any) -> bool:
    """Whether YAML ignores the end of a text, as in `a #1.csv`: then more text there changes nothing."""
    try:
        return bool(read_yaml(f"{text}x", "") == value)
    except BadRequestError:
        return False


def _path(content: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The keys of an override: split at dots, except for those of a key that exists, as in `methods.lora/v1.5.rank`."""
    parts, path, mapping = key.split("."), [], content
    while parts:
        taken = next((n for n in range(len(parts), 1, -1) if ".".join(parts[:n]) in mapping), 1)
        name = ".".join(parts[:taken])
        parts = parts[taken:]
        path.append(name)
        inner = mapping.get(name)
        mapping = inner if isinstance(inner, Mapping) else {}
    return tuple(path)
