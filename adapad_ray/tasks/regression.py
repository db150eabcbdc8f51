"""Regression: one or two texts in, one number out, as in STS-B."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.base import AssumedSplit, AutoClass, Evaluated, Passes, RawTask, Split, TaskData, TaskType
from adapad_ray.tasks.classification import evaluate_logits, select_texts, with_group
from adapad_ray.tasks.source import TextSource
from adapad_ray.tasks.texts import assumed_texts, check_length, encode_texts


class RegressionSource(TextSource):
    """A number for one or two texts."""

    type: Literal["regression"]
    metric: Literal["pearson", "spearman", "pearson_spearman", "r2"] = "pearson_spearman"
    """`pearson_spearman` is the mean of the two correlations, which GLUE judges STS-B by."""


class Regression(TaskType[RegressionSource]):
    """Texts and numbers; the loss is the squared error, and the labels are not rescaled."""

    name = "regression"
    auto_class: ClassVar[AutoClass] = "AutoModelForSequenceClassification"
    loss = "squared_error"
    Source = RegressionSource

    def select(self, table: pd.DataFrame, source: RegressionSource, split: str) -> pd.DataFrame:
        """Texts as strings, labels as finite numbers."""
        frame = select_texts(table, source, split)
        numbers = pd.to_numeric(table[source.label], errors="coerce")
        broken = table[source.label][~np.isfinite(numbers)]
        if len(broken):
            raise BadRequestError(
                f"column {source.label!r} of the {split} data holds {broken.iloc[0]!r}: labels of a regression are "
                "finite numbers"
            )
        return with_group(frame.assign(label=numbers.astype(float)), table, source)

    def outputs(self, label_names: tuple[str, ...]) -> int:
        """One."""
        return 1

    def check_reader(self, raw: RawTask, reader: Any, max_length: int) -> None:
        """Texts, with the tokenizer's own tokens, must fit."""
        check_length(reader, max_length, pair="text_pair" in raw.splits["train"])

    def encode(self, raw: RawTask, frame: pd.DataFrame, split: str, reader: Any, max_length: int) -> Split:
        """Token sequences, cut to `max_length`."""
        return encode_texts(frame, reader, max_length, np.float32)

    def evaluate(self, data: TaskData, passes: Passes, splits: list[str]) -> dict[str, Evaluated]:
        """Outputs `[items, 1]`."""
        return evaluate_logits(data, passes, splits)

    def assume(self, source: RegressionSource, count: int, max_length: int, reader: Any) -> AssumedSplit:
        """Texts of `max_length` tokens."""
        return assumed_texts(count, max_length, np.zeros((), dtype=np.float32))
