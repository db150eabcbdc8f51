"""Sequence classification: one or two texts in, one of several classes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.base import (
    AssumedSplit,
    AutoClass,
    Evaluated,
    Passes,
    RawTask,
    Split,
    TaskData,
    TaskType,
    require_columns,
    with_group,
)
from adapad_ray.tasks.encoding.texts import assumed_texts, check_length, encode_texts
from adapad_ray.tasks.metrics import find_metric
from adapad_ray.tasks.source import TaskSource, TextSource

TextSourceT = TypeVar("TextSourceT", bound=TextSource)


class TextTask(TaskType[TextSourceT]):
    """One or two texts in, one row of outputs out."""

    auto_class: ClassVar[AutoClass] = "AutoModelForSequenceClassification"
    label_type: ClassVar[type[np.generic]]

    def check_reader(self, raw: RawTask, reader: Any, max_length: int) -> None:
        """Texts, with the tokenizer's own tokens, must fit."""
        check_length(reader, max_length, pair="text_pair" in raw.splits["train"])

    def encode(self, raw: RawTask, frame: pd.DataFrame, split: str, reader: Any, max_length: int) -> Split:
        """Token sequences, cut to `max_length`."""
        return encode_texts(frame, reader, max_length, self.label_type)

    def evaluate(self, data: TaskData, passes: Passes, splits: list[str]) -> dict[str, Evaluated]:
        """Outputs `[items, outputs]`."""
        return evaluate_logits(data, passes, splits)

    def assume(self, source: TextSourceT, count: int, max_length: int, reader: Any) -> AssumedSplit:
        """Texts of `max_length` tokens."""
        return assumed_texts(count, max_length, np.zeros((), dtype=self.label_type))


class Classification(TextTask[TaskSource]):
    """Texts and classes."""

    name = "classification"
    label_type = np.int64
    Source = TaskSource

    def select(self, table: pd.DataFrame, source: TaskSource, split: str) -> pd.DataFrame:
        """Texts as strings, and labels as text."""
        frame = select_texts(table, source, split)
        frame["label"] = labels_as_text(table[source.label], source.label, split)
        return with_group(frame, table, source)

    def label(
        self, splits: Mapping[str, pd.DataFrame], source: TaskSource, name: str
    ) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
        """Labels as numbers of the classes, which are those of the training split."""
        coded, label_names = number_classes(splits, name)
        check_classes(source.metric, label_names, name)
        return coded, label_names


def evaluate_logits(data: TaskData, passes: Passes, splits: list[str]) -> dict[str, Evaluated]:
    """The outputs `[items, outputs]` of a model whose examples are the items, and their metrics."""
    found = {}
    for name in splits:
        logits = logits_of(passes, data.splits[name])
        found[name] = Evaluated(logits, find_metric(data.metric).scores(logits, data.splits[name].labels))
    return found


def logits_of(passes: Passes, split: Split) -> np.ndarray:
    """Logits `float32 [examples, outputs]` in the split's own order, of a model that has one row of them an example."""
    logits: np.ndarray | None = None
    for rows, _, output in passes.outputs(split):
        values = output.logits.numpy()
        if logits is None:
            logits = np.empty((len(split), values.shape[1]), dtype=np.float32)
        logits[rows] = values
    assert logits is not None, "an empty split is refused before training"
    return logits


def select_texts(table: pd.DataFrame, source: TextSource, split: str) -> pd.DataFrame:
    """`text` and `text_pair` as strings; all columns that the source names are there and full."""
    columns = {"text": source.text, "text_pair": source.text_pair}
    require_columns(table, columns | {"label": source.label, "group": source.group}, split)
    return pd.DataFrame({ours: table[theirs].astype(str) for ours, theirs in columns.items() if theirs is not None})


def number_classes(splits: Mapping[str, pd.DataFrame], name: str) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
    """Splits whose labels are numbers of classes, and the classes: those of training, as integers sort or else as text.

    Raises:
        BadRequestError: training has one class only, or another split has one that training lacks.
    """
    names = sort_labels(set(splits["train"]["label"]))
    if len(names) < 2:
        raise BadRequestError(f"task {name!r} has one label in training, {names[0]!r}: it takes at least two")
    codes = {label: index for index, label in enumerate(names)}
    return {split: encode_labels(frame, codes, split) for split, frame in splits.items()}, names


def check_classes(metric: str, names: tuple[str, ...], task: str) -> None:
    """Check that a metric suits the number of classes.

    Raises:
        BadRequestError: it is for two classes, and the task has another number.
    """
    if find_metric(metric).binary and len(names) != 2:
        raise BadRequestError(f"metric {metric} is for two classes and task {task!r} has {len(names)}: use f1_macro")


def sort_labels(names: set[str]) -> tuple[str, ...]:
    """Labels sorted as integers if all are, else as text."""
    try:
        return tuple(sorted(names, key=int))
    except ValueError:
        return tuple(sorted(names))


def encode_labels(frame: pd.DataFrame, codes: Mapping[str, int], split: str) -> pd.DataFrame:
    """The frame with the numbers of its labels.

    Raises:
        BadRequestError: a label is not among `codes`.
    """
    unknown = sorted(set(frame["label"]) - set(codes))
    if unknown:
        raise BadRequestError(
            f"the {split} split holds labels that training lacks ({', '.join(unknown[:5])}): "
            f"known are {', '.join(codes)}"
        )
    return frame.assign(label=frame["label"].map(codes).astype("int64"))


def labels_as_text(labels: pd.Series, column: str, split: str) -> pd.Series:
    """Labels as strings, whole floats like integers, so that splits agree however a file types them.

    Raises:
        BadRequestError: a label is a fraction.
    """
    if pd.api.types.is_float_dtype(labels):
        fractional = labels[labels != labels.round()]
        if len(fractional):
            raise BadRequestError(
                f"column {column!r} of the {split} data holds {fractional.iloc[0]}: labels are classes, not numbers"
            )
        labels = labels.astype("int64")
    return labels.map(str)
