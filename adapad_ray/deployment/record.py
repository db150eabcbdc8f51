"""`adapad.json` of an exported adapter: how its model reads rows and answers them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapad_ray.adapters.adapter_config import LARGEST_CONFIG
from adapad_ray.adapters.export import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from adapad_ray.errors import BadRequestError
from adapad_ray.files import write_text
from adapad_ray.models import SEQUENCES
from adapad_ray.safe_json import read_object
from adapad_ray.tasks import TYPES, DataSource

RECORD = "adapad.json"
MAX_LENGTH, BATCH_SIZE = 128, 64
"""Tokens of a text, and rows at a time, where a record does not say."""


class AdapterRecord(BaseModel):
    """What `adapad predict` needs beside the weights. Other fields of the file say where the adapter came from."""

    model_config = ConfigDict(frozen=True, extra="allow")

    model: str
    """The backbone: a packaged name, the path of a folder, or a Hub name."""
    model_digest: str
    """sha256 of its weights, as `Backbone.digest`."""
    pooling: str
    dtype: str = "float32"
    quantization: str | None = None
    labels: tuple[str, ...]
    """Names of class 0, 1, …; empty without classes."""
    task: dict[str, Any]
    """The source of the task without the places of its data: type, columns, metric."""
    max_length: int = Field(ge=1, le=10**6)
    """Tokens."""
    batch_size: int = Field(ge=1, le=10**6)
    """Rows at a time."""
    settings: dict[str, Any] = {}
    """What the task's type needs to turn outputs into answers beside its source, such as a threshold."""

    @property
    def source(self) -> DataSource:
        """The task's source; its data are placeholders."""
        kind = TYPES[str(self.task["type"])].Source
        if not issubclass(kind, DataSource):
            raise KeyError(self.task["type"])
        return kind.model_validate({**self.task, "train": ""})


def read_record(folder: Path) -> AdapterRecord:
    """Reads the record of an exported adapter and checks its PEFT configuration, which PEFT would trust.

    Raises:
        BadRequestError: `adapad export` did not write this folder, or it is damaged.
    """
    content = _content(folder)
    if "task" not in content:
        raise BadRequestError(f"{folder / RECORD} does not describe the task: export the adapter with `adapad export`")
    return _record(folder, content)


def read_text_record(folder: Path) -> AdapterRecord:
    """Reads the record of any adapter of this package that maps texts to classes or numbers, exported or not.

    Raises:
        BadRequestError: as `read_record`, or the adapter is for something else.
    """
    content = _content(folder)
    if content.get("auto_class", SEQUENCES) != SEQUENCES:
        raise BadRequestError(
            f"adapter {folder} is for {content['auto_class']}: predict reads texts for classes or numbers"
        )
    task = {"type": "classification" if content.get("labels") else "regression"}
    return _record(folder, {"labels": [], "task": task, "max_length": MAX_LENGTH, "batch_size": BATCH_SIZE} | content)


def _content(folder: Path) -> dict[str, Any]:
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, RECORD):  # without the weights, PEFT would look for pickled ones
        if not (folder / name).is_file():
            raise BadRequestError(f"{folder} holds no adapter of this package: {name} is missing")
    return read_object(folder / RECORD, str(folder / RECORD), LARGEST_CONFIG)


def _record(folder: Path, content: Mapping[str, Any]) -> AdapterRecord:
    try:
        record = AdapterRecord.model_validate(content)
        _ = record.source
    except (ValidationError, KeyError) as error:
        raise BadRequestError(f"{folder / RECORD} is damaged: export the adapter again") from error
    _check_patterns(folder / ADAPTER_CONFIG)
    return record


def _check_patterns(path: Path) -> None:
    """Check that modules are named by full paths, as every export does: PEFT runs other patterns as they are."""
    config = read_object(path, str(path))
    targets, patterns = config.get("target_modules"), (config.get("rank_pattern"), config.get("alpha_pattern"))
    if config.get("peft_type") == "LORA" and isinstance(targets, list) and all(isinstance(t, str) for t in targets):
        exact = {f"^{re.escape(name)}$" for name in targets}
        if all(isinstance(pattern, dict) and pattern.keys() <= exact for pattern in patterns):
            return
    raise BadRequestError(f"{path} was not written by `adapad export`: its modules are not named by full paths")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON with sorted keys, atomically."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
