"""Sequence classification: one or two texts in, one of several classes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from adapad_ray.tasks.data.columns import classes_as_text, number_classes, with_group
from adapad_ray.tasks.metrics import ClassMetricName, check_classes
from adapad_ray.tasks.source import TextSource
from adapad_ray.tasks.types.texts import TextTask, select_texts


class ClassificationSource(TextSource):
    """A class for one or two texts."""

    type: Literal["classification"] = "classification"
    metric: ClassMetricName = "accuracy"
    """`accuracy_f1` is the mean of accuracy and F1 of class 1, by which GLUE judges MRPC and QQP."""


class Classification(TextTask[ClassificationSource]):
    """Texts and classes."""

    name = "classification"
    label_type = np.int64
    Source = ClassificationSource

    def select(self, table: pd.DataFrame, source: ClassificationSource, split: str) -> pd.DataFrame:
        """Texts as strings, and classes as text."""
        frame = select_texts(table, source, split)
        frame["label"] = classes_as_text(table[source.label], source.label, split)
        return with_group(frame, table, source.group, split)

    def number_labels(
        self, splits: Mapping[str, pd.DataFrame], source: ClassificationSource, task: str
    ) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
        """Numbers of the classes, which are those of the training split."""
        numbered, class_names = number_classes(splits, task, source.label)
        check_classes(source.metric, len(class_names), task)
        return numbered, class_names
