"""Regression: one or two texts in, one number out, as in STS-B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.columns import as_text, exact_number, number_of, with_group
from adapad_ray.tasks.data.splits import SPLITS
from adapad_ray.tasks.losses import squared_error
from adapad_ray.tasks.metrics import NumberMetricName
from adapad_ray.tasks.source import TextSource
from adapad_ray.tasks.types.texts import TextTask, select_texts

_EXACT = 2**24
"""Whole numbers below are exact in fp32."""


class RegressionSource(TextSource):
    """A number for one or two texts."""

    type: Literal["regression"]
    metric: NumberMetricName = "pearson_spearman"
    """`pearson_spearman` is the mean of the two correlations, by which GLUE judges STS-B."""


class Regression(TextTask[RegressionSource]):
    """Texts and numbers. The loss is the squared error, and the labels are not rescaled."""

    name = "regression"
    loss = staticmethod(squared_error)
    label_type = np.float32
    Source = RegressionSource

    def select(self, table: pd.DataFrame, source: RegressionSource, split: str) -> pd.DataFrame:
        """Texts as strings, labels as finite numbers."""
        frame = select_texts(table, source, split)
        labels = as_text(table[source.label], source.label, split)
        numbers = [number_of(label) for label in labels]
        for row, (label, number) in enumerate(zip(labels, numbers, strict=True), 1):
            if number is None:
                raise BadRequestError(
                    f"column {source.label!r} of the {split} data holds {label!r}: labels of a regression are "
                    f"finite numbers (row {row:,})"
                )
        _check_fp32(labels, source.label, split)
        return with_group(frame.assign(label=np.array(numbers, dtype=float)), table, source.group, split)

    def placeholder(self, class_names: tuple[str, ...]) -> str:
        """Zero."""
        return "0"

    def number_labels(
        self, splits: Mapping[str, pd.DataFrame], source: RegressionSource, task: str
    ) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
        """The splits as they are, if the labels of each differ."""
        for split in SPLITS:
            found = splits[split]["label"].to_numpy(np.float32)
            if len(found) > 1 and np.ptp(found) == 0:
                raise BadRequestError(
                    f"all labels in the {split} split of task {task!r} are {found[0]:g} in the fp32 that they are "
                    "trained in: there is nothing to predict"
                )
        return dict(splits), ()

    def outputs(self, class_names: tuple[str, ...]) -> int:
        """One."""
        return 1


def _check_fp32(labels: Sequence[str], column: str, split: str) -> None:
    """Check that labels stay finite in fp32, in which they are trained, and that no two whole numbers become one.

    Raises:
        BadRequestError: they do not.
    """
    values = np.array(labels, dtype=np.float64)
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    labelled = f"column {column!r} of the {split} data holds"
    remedy = "write them in a larger unit, or subtract a constant"
    if not np.isfinite(rounded).all():
        label = labels[int(np.isinf(rounded).argmax())]
        raise BadRequestError(f"{labelled} {label}, which is infinite in the fp32 that labels are trained in: {remedy}")
    first: dict[float, str] = {}
    for row in np.flatnonzero((np.abs(values) >= _EXACT) & (values == np.round(values))).tolist():
        other = first.setdefault(float(rounded[row]), labels[row])
        if other != labels[row] and exact_number(other) != exact_number(labels[row]):
            raise BadRequestError(
                f"{labelled} {other} and {labels[row]}, which are one number in the fp32 that labels are trained in: "
                f"{remedy}"
            )
