"""`predict`: an adapter in a folder answers texts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from adapad_ray.api.own_model import own_backbone
from adapad_ray.deployment.prediction import ExportedModel, load_base, on_backbone
from adapad_ray.deployment.record import AdapterRecord, read_text_record
from adapad_ray.errors import BadRequestError
from adapad_ray.models import Backbone
from adapad_ray.tasks import TYPES
from adapad_ray.tasks.source import TextSource


def predict(
    adapter: str | Path,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    model: nn.Module | str | None = None,
    tokenizer: Any = None,
    max_length: int | None = None,
) -> list[str] | list[float]:
    """Predicts with the adapter in a folder that this package has written.

    Args:
        adapter: a folder with `adapter_config.json` and `adapad.json`.
        pairs: the second text of every pair, for a task over pairs.
        model: the base model; default: the one that the adapter names. An object is changed in place, as
            `PeftModel.from_pretrained` does.
        tokenizer: of a model that is an object.
        max_length: tokens; longer texts are cut. Default: that of the training, or 128 where the folder does not say.

    Raises:
        BadRequestError: the folder holds no such adapter, it is for another task than classes or numbers for texts, or
            its base model cannot be loaded.
    """
    if not isinstance(adapter, str | os.PathLike):
        raise BadRequestError(
            f"adapter is a {type(adapter).__name__}: pass the folder that its save() has written"
            + (", or call its own predict()" if hasattr(adapter, "predict") else "")
        )
    folder = Path(adapter)
    record = read_text_record(folder)
    backbone = _base(record, folder, model, tokenizer)
    length = max_length or min(record.max_length, backbone.tokenizer.model_max_length)
    record = record.model_copy(update={"max_length": length})
    return text_answers(on_backbone(record, folder, backbone), texts, pairs)


def text_answers(model: ExportedModel, texts: Sequence[str], pairs: Sequence[str] | None) -> list[str] | list[float]:
    """The name of a class for every text, or a number for a regression."""
    outputs = text_outputs(model, texts, pairs)
    names = model.record.labels
    return [names[i] for i in outputs.argmax(axis=1)] if names else [float(value) for value in outputs[:, 0]]


def text_outputs(model: ExportedModel, texts: Sequence[str], pairs: Sequence[str] | None) -> NDArray[np.float32]:
    """The model's outputs float32 `[texts, outputs]`, whatever columns its texts have had."""
    source = model.record.source
    if not isinstance(source, TextSource):
        raise BadRequestError(f"predict reads texts for classes or numbers, but this is a {source.type} task")
    table = {"text": _listed(texts), **({} if pairs is None else {"text_pair": _listed(pairs)})}
    if pairs is not None and len(table["text_pair"]) != len(table["text"]):
        raise BadRequestError(f"there are {len(table['text']):,} texts, but {len(table['text_pair']):,} pairs")
    if not table["text"]:
        return np.zeros((0, TYPES[source.type].outputs(model.record.labels)), dtype=np.float32)
    task = {**model.record.task, "text": "text", "text_pair": None if pairs is None else "text_pair", "label": "label"}
    record = model.record.model_copy(update={"task": task})
    return ExportedModel(record, model.model, model.backbone).outputs(pd.DataFrame(table, dtype=object))


def _base(record: AdapterRecord, folder: Path, model: nn.Module | str | None, tokenizer: Any) -> Backbone:
    if isinstance(model, nn.Module):
        if tokenizer is None:
            raise BadRequestError("model is an object without its tokenizer: pass tokenizer= too")
        return own_backbone(model, tokenizer, outputs=TYPES[record.source.type].outputs(record.labels))
    try:
        return load_base(record, model)
    except BadRequestError as error:
        if model is not None:
            raise
        raise BadRequestError(
            f"the base model of {folder} cannot be found by the name {record.model!r}: pass the object as model= and "
            f"its tokenizer as tokenizer=, or its folder as model= ({error})"
        ) from error


def _listed(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise BadRequestError("texts is one text: pass a list of them")
    return list(texts)
