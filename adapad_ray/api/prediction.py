"""Predictions of an exported adapter for new texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from peft import PeftModel
from torch import nn

from adapad_ray.adapters.adapter_config import LARGEST_CONFIG
from adapad_ray.adapters.export import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from adapad_ray.api.own_model import own_backbone
from adapad_ray.errors import BadRequestError
from adapad_ray.models import SEQUENCES, Backbone, load_backbone
from adapad_ray.safe_json import read_object
from adapad_ray.tasks.data.columns import as_text
from adapad_ray.tasks.encoding.texts import check_length, encode_texts
from adapad_ray.training.cell.evaluation import predict as logits_of_split

BATCH_SIZE = 64


@dataclass(frozen=True)
class Predictor:
    """A model with its adapter, for texts and pairs of texts."""

    model: nn.Module
    tokenizer: Any
    class_names: tuple[str, ...]
    """Empty for a regression."""
    max_length: int
    """Tokens; longer texts are cut."""

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> NDArray[np.float32]:
        """The model's outputs float32 `[texts, outputs]`.

        Args:
            pairs: the second text of every pair, for a task over pairs.
        """
        texts = _listed(texts)
        if not texts:
            return np.zeros((0, max(1, len(self.class_names))), dtype=np.float32)
        frame = pd.DataFrame({"text": as_text(pd.Series(texts, dtype=object), "texts", "given"), "label": 0})
        if pairs is not None:
            frame["text_pair"] = as_text(pd.Series(_listed(pairs), dtype=object), "pairs", "given")
        check_length(self.tokenizer, self.max_length, pair=pairs is not None)
        split = encode_texts(frame, self.tokenizer, self.max_length, np.int64)
        device = next(self.model.parameters()).device
        pad = int(self.tokenizer.pad_token_id)
        return logits_of_split(self.model, split, batch_size=BATCH_SIZE, pad_token_id=pad, device=device)

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[str] | list[float]:
        """The name of a class for every text, or a number for a regression."""
        logits = self.logits(texts, pairs)
        if not self.class_names:
            return [float(value) for value in logits[:, 0]]
        return [self.class_names[index] for index in logits.argmax(axis=1)]


def predict(
    adapter: str | Path,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    model: nn.Module | str | None = None,
    tokenizer: Any = None,
    max_length: int | None = None,
) -> list[str] | list[float]:
    """Predicts with the adapter in a folder that this package has exported.

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
    folder = Path(adapter)
    about = _provenance(folder)
    if about.get("auto_class", SEQUENCES) != SEQUENCES:
        raise BadRequestError(
            f"adapter {folder} is for {about['auto_class']}: predict reads texts for classes or numbers"
        )
    names = tuple(map(str, about.get("labels", ())))
    backbone = _backbone(model, tokenizer, about, max(1, len(names)))
    loaded = PeftModel.from_pretrained(backbone.model, str(folder)).eval()
    tokens = max_length or int(about.get("max_length", 128))
    return Predictor(loaded, backbone.tokenizer, names, tokens)(texts, pairs)


def _backbone(model: nn.Module | str | None, tokenizer: Any, about: dict[str, Any], outputs: int) -> Backbone:
    if isinstance(model, nn.Module):
        if tokenizer is None:
            raise BadRequestError("model is an object without its tokenizer: pass tokenizer= too")
        return own_backbone(model, tokenizer, outputs=outputs)
    return load_backbone(model or str(about["model"]), outputs, pooling=about.get("pooling"))


def _provenance(folder: Path) -> dict[str, Any]:
    path = folder / "adapad.json"
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, path.name):  # without the weights, PEFT would look for pickled ones
        if not (folder / name).is_file():
            raise BadRequestError(f"{folder} holds no adapter of this package: {name} is missing")
    return read_object(path, str(path), LARGEST_CONFIG)


def _listed(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise BadRequestError("texts is one text: pass a list of them")
    return list(texts)
