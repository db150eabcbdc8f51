"""What `train` returns: one trained adapter, its folder and its numbers."""

from __future__ import annotations

import copy
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from adapad_ray.api.notebook import html
from adapad_ray.api.own_model import require_bare
from adapad_ray.api.prediction import text_answers, text_outputs
from adapad_ray.deployment.completion import Training, complete_adapter
from adapad_ray.deployment.model_card import CardFacts
from adapad_ray.deployment.prediction import ExportedModel
from adapad_ray.deployment.record import AdapterRecord
from adapad_ray.errors import BadRequestError
from adapad_ray.files import filled
from adapad_ray.models import Backbone
from adapad_ray.results import CellResult, Point
from adapad_ray.tasks import DataSource, Source, TaskData
from adapad_ray.wording import counted


@dataclass(frozen=True)
class TrainedAdapter:
    """A finished training: one cell, as a sweep has many."""

    result: CellResult
    """The record: identity, points, losses, growth, cost."""
    folder: Path
    """Of the cell: adapters, predictions and `result.json`."""
    backbone: Backbone
    """The base model, as it was before the training."""
    data: TaskData
    source: Source
    """The task: its type and columns."""
    warnings: tuple[str, ...] = ()
    """What is suspicious about the data and the tokenizer."""
    temporary: tempfile.TemporaryDirectory[str] | None = None
    """Deleted with this object, where no folder was given."""

    @property
    def adapter(self) -> Path | None:
        """The adapter's folder in the PEFT format; None for methods without one (`head_only`, `full`)."""
        return None if self.result.final.adapter is None else self.folder / self.result.final.adapter

    @property
    def parameters(self) -> int:
        """Deployed adapter parameters, task head apart."""
        return self.result.final.parameters

    @property
    def ranks(self) -> dict[str, int]:
        """Module → rank; modules of rank 0 are left out."""
        return dict(self.result.final.ranks)

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """`validation` and `test` → name of a metric → value."""
        return {"validation": dict(self.result.final.validation), "test": dict(self.result.final.test)}

    @property
    def points(self) -> pd.DataFrame:
        """One row per deployable model, `final` first, then `prefix-2`, …: parameters, largest rank, and metrics."""
        rows = [
            {
                "prefix": point.prefix,
                "parameters": point.parameters,
                "largest_rank": max(point.ranks.values(), default=0),
                **{f"validation_{name}": value for name, value in point.validation.items()},
                **{f"test_{name}": value for name, value in point.test.items()},
            }
            for point in self.result.points
        ]
        names = pd.Index([point.key for point in self.result.points], name="model")
        return pd.DataFrame(rows, index=names).astype({"prefix": "Int64"})

    @cached_property
    def model(self) -> Any:
        """A `PeftModel`: the exported adapter on a copy of the base model.

        Raises:
            BadRequestError: the method exports no adapter, or the base model carries another one now.
        """
        from peft import PeftModel

        if self.adapter is None:
            raise BadRequestError(f"{self.result.identity.label} exports no adapter in the PEFT format")
        require_bare(self.backbone.model)
        base = copy.deepcopy(self.backbone.model).eval()
        return PeftModel.from_pretrained(base, str(self.adapter)).eval()

    @cached_property
    def _exported(self) -> ExportedModel:
        """The model with its adapter, and how it reads texts and answers them."""
        identity, data = self.result.identity, self.data
        record = AdapterRecord(
            model=self.backbone.name,
            model_digest=self.backbone.digest,
            pooling=self.backbone.pooling,
            labels=data.class_names,
            task={"type": data.type, "metric": data.metric},
            max_length=identity.training["max_length"],
            batch_size=identity.training["evaluation_batch_size"],
        )
        return ExportedModel(record, self.model, self.backbone)

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[str] | list[float]:
        """The name of a class for every text, or a number for a regression.

        Args:
            pairs: the second text of every pair, for a task over pairs.

        Raises:
            BadRequestError: the task does not map texts to classes or numbers.
        """
        return text_answers(self._exported, texts, pairs)

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> NDArray[np.float32]:
        """The model's outputs float32 `[texts, outputs]`; classes are in the order of `data.class_names`."""
        return text_outputs(self._exported, texts, pairs)

    def save(self, to: str | Path, *, prefix: int | None = None) -> Path:
        """Copies the adapter in the PEFT format to the folder `to`, and completes it as `adapad export` does.

        Warns where the base model cannot be read again by its name, so that tokenizer and class names are missing.

        Args:
            prefix: the smaller model with at most this many components per module, one of those in `points`.

        Raises:
            BadRequestError: there is no such adapter, or `to` is not empty.
        """
        to, point = Path(to), self._point(prefix)
        if point.adapter is None:
            raise BadRequestError(f"{self.result.identity.label} exports no adapter in the PEFT format")
        with filled(to):
            shutil.copytree(self.folder / point.adapter, to, dirs_exist_ok=True)
            if isinstance(self.source, DataSource):
                for message in complete_adapter(to, self._training(point, self.source)):
                    warnings.warn(message, stacklevel=2)
        return to

    def _training(self, point: Point, source: DataSource) -> Training:
        card = CardFacts(
            title=self.data.name,
            metric=self.result.metric,
            parameters=point.parameters,
            head_parameters=point.head_parameters,
            modules=len(point.ranks),
            splits=self.data.sizes,
        )
        return Training(self.result, point, source, card)

    def _point(self, prefix: int | None) -> Point:
        for point in self.result.points:
            if point.prefix == prefix:
                return point
        prefixes = ", ".join(str(point.prefix) for point in self.result.points if point.prefix is not None) or "none"
        raise BadRequestError(f"there is no prefix {prefix}: the prefixes are {prefixes}")

    def __repr__(self) -> str:
        identity, metric = self.result.identity, self.result.metric
        scores = ", ".join(f"{split} {metric} {self.metrics[split][metric]:.3f}" for split in ("validation", "test"))
        modules = counted(len(self.ranks), "module")
        return f"<{identity.label}: {self.parameters:,} adapter parameters on {modules}, {scores}>"

    def _repr_html_(self) -> str:
        return html(repr(self)[1:-1], self.points)
