"""The contract of a metric: numbers per item, and the metric as a function of their means."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapad_ray.wording import counted

Array = NDArray[np.float64]


class Metric(ABC):
    """A score of predictions against labels, better when higher.

    A metric is written as a function of means over items. Any resample of the items, weighted or not, then costs one
    product of weights and features; the report draws thousands of them for its confidence intervals.
    """

    name: str
    """As scikit-learn spells it, else SciPy. It is the value of `task.metric`, and the key in records and MLflow."""
    predicted: str
    """The predictions that the metric takes: `classes` (logits), `numbers`, `answers` (texts with scores), or a word
    that a new task type introduces. Types that predict these accept the metric."""
    binary: bool = False
    """Whether the metric is defined for two classes only."""
    right_or_wrong: bool = False
    """Whether it judges every item as right or wrong (or partly right): a few items without an error then do not show
    that there are none, and the report widens its intervals accordingly."""
    beside: tuple[Metric, ...] = ()
    """Metrics that are reported with this one."""

    @abstractmethod
    def features(self, predictions: NDArray[Any], labels: NDArray[Any]) -> Array:
        """What the metric takes from each item, float64 `[items, f]`.

        Args:
            predictions: `[items, classes]` for classes; the largest wins, and the first of equals. `[items, outputs]`
                for numbers, `[items, scores]` for answers.
            labels: int `[items]` for classes; `[items]` or `[items, outputs]` for numbers; unused for answers.
        """

    @abstractmethod
    def value(self, means: Array) -> Array:
        """The metric `[...]` of sets of items whose features have these (weighted) means `[..., f]`."""

    def scores(self, predictions: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
        """The metric of all items and those reported beside it, by name.

        Raises:
            FloatingPointError: a prediction is not finite.
        """
        check_finite(predictions)
        metrics = (*self.beside, self)
        return {m.name: float(m.value(m.features(predictions, labels).mean(axis=0))) for m in metrics}


class MeanOfTwo(Metric):
    """The mean of two metrics, which are both reported beside it."""

    def __init__(self, first: Metric, second: Metric, *, split: int) -> None:
        """`split` is the number of features of `first`."""
        self._split = split
        self.name = f"{first.name}_{second.name}"
        self.predicted = first.predicted
        self.binary = first.binary or second.binary
        self.right_or_wrong = first.right_or_wrong and second.right_or_wrong
        self.beside = (first, second)

    def features(self, predictions: NDArray[Any], labels: NDArray[Any]) -> Array:
        """The features of both, those of the first metric first."""
        return np.concatenate([metric.features(predictions, labels) for metric in self.beside], axis=1)

    def value(self, means: Array) -> Array:
        """The mean of the two values."""
        first, second = self.beside
        mean: Array = (first.value(means[..., : self._split]) + second.value(means[..., self._split :])) / 2
        return mean


def check_finite(outputs: NDArray[Any]) -> None:
    """Check that outputs `[examples, …]` are finite.

    Raises:
        FloatingPointError: some are not.
    """
    if not np.isfinite(outputs).all():
        rows = int((~np.isfinite(outputs)).reshape(len(outputs), -1).any(axis=1).sum())
        raise FloatingPointError(f"logits of {rows:,} of {counted(len(outputs), 'example')} are not finite")


def ratio(numerator: Array, denominator: Array) -> Array:
    """The quotient, or 0 where the denominator is 0, as in scikit-learn."""
    result: Array = np.zeros_like(numerator)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
