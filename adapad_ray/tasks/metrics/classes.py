"""Metrics of predicted classes, as functions of the entries of the confusion matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapad_ray.tasks.metrics.base import Array, Metric, ratio


class Accuracy(Metric):
    """The share of items whose class is predicted."""

    name = "accuracy"
    predicted = "classes"
    right_or_wrong = True

    def features(self, predictions: NDArray[Any], labels: NDArray[Any]) -> Array:
        """Whether the item is correct, `[items, 1]`."""
        correct: Array = (predictions.argmax(axis=1) == labels)[:, None].astype(np.float64)
        return correct

    def value(self, means: Array) -> Array:
        """Their mean."""
        value: Array = means[..., 0]
        return value


ACCURACY = Accuracy()


class ClassMetric(Metric):
    """A metric beside which accuracy is reported."""

    predicted = "classes"
    right_or_wrong = True
    beside: tuple[Metric, ...] = (ACCURACY,)


class F1(ClassMetric):
    """F1 of class 1 of two; 0 where it is neither predicted nor present."""

    name = "f1"
    binary = True

    def features(self, predictions: NDArray[Any], labels: NDArray[Any]) -> Array:
        """Whether the item is a true positive, predicted positive, and positive, `[items, 3]`."""
        predicted, true = one_hot(predictions, labels)
        return np.stack([predicted * true, predicted, true], axis=-1)[:, 1]

    def value(self, means: Array) -> Array:
        """`2 TP / (predicted + positive)`."""
        return ratio(2 * means[..., 0], means[..., 1] + means[..., 2])


class F1Macro(ClassMetric):
    """The mean F1 of the classes that occur among labels or predictions."""

    name = "f1_macro"

    def features(self, predictions: NDArray[Any], labels: NDArray[Any]) -> Array:
        """The three features of `F1` for every class, `[items, 3 · classes]`."""
        predicted, true = one_hot(predictions, labels)
        return np.concatenate([predicted * true, predicted, true], axis=1)

    def value(self, means: Array) -> Array:
        """The mean over the classes that occur."""
        hits, predicted, true = np.split(means, 3, axis=-1)
        occurs = predicted + true > 0
        mean: Array = ratio(2 * hits, predicted + true).sum(-1) / occurs.sum(-1)
        return mean


class MatthewsCorrcoef(ClassMetric):
    """Matthews correlation in Gorodkin's multi-class form; 0 where it is not defined."""

    name = "matthews_corrcoef"

    def features(self, predictions: NDArray[Any], labels: NDArray[Any]) -> Array:
        """Whether the item is correct, then one-hot its predicted and its true class, `[items, 1 + 2 · classes]`."""
        predicted, true = one_hot(predictions, labels)
        return np.concatenate([(predicted * true).sum(axis=1, keepdims=True), predicted, true], axis=1)

    def value(self, means: Array) -> Array:
        """`(c - p·t) / √((1 - p·p)(1 - t·t))`: c is the share of correct items, p and t those of each class."""
        correct, (predicted, true) = means[..., 0], np.split(means[..., 1:], 2, axis=-1)
        covariance = correct - (predicted * true).sum(-1)
        return ratio(covariance, np.sqrt((1 - (predicted**2).sum(-1)) * (1 - (true**2).sum(-1))))


def one_hot(predictions: NDArray[Any], labels: NDArray[Any]) -> tuple[Array, Array]:
    """Predicted and true classes, `[items, classes]`."""
    identity = np.eye(predictions.shape[1])
    return identity[predictions.argmax(axis=1)], identity[labels.astype(int)]
