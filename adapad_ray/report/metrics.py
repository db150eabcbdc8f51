"""Task metrics as functions of per-item means, so that thousands of resamples cost one matrix product.

A metric is a pair: `features` turns predictions into a few numbers per item, and `value` turns the means of these
numbers over any (weighted) set of items into the metric. For accuracy the feature is "correct"; for Matthews
correlation and F1 the features are the entries of the confusion matrix that the formula needs; for correlations and R²
they are first and second moments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from adapad_ray.errors import BadRequestError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ItemMetric:
    """`features(predictions [items, classes], labels [items]) -> [items, f]`; `value(means [..., f]) -> [...]`.

    Of a task whose labels are vectors, both are `[items, outputs]`.
    """

    features: Callable[[NDArray[Any], NDArray[Any]], Array]
    value: Callable[[Array], Array]


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Quotient that is 0 where the denominator is 0, as in scikit-learn."""
    result: Array = np.zeros_like(numerator)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _correct(logits: NDArray[Any], labels: NDArray[Any]) -> Array:
    correct: Array = (logits.argmax(axis=1) == labels)[:, None].astype(float)
    return correct


def _one_hot(logits: NDArray[Any], labels: NDArray[Any]) -> tuple[Array, Array]:
    identity = np.eye(logits.shape[1])
    return identity[logits.argmax(axis=1)], identity[labels.astype(int)]


def _matthews_features(logits: NDArray[Any], labels: NDArray[Any]) -> Array:
    predicted, true = _one_hot(logits, labels)
    return np.concatenate([_correct(logits, labels), predicted, true], axis=1)


def _matthews(means: Array) -> Array:
    """Gorodkin's multi-class form from the shares of correct, predicted and true items."""
    correct, (predicted, true) = means[..., 0], np.split(means[..., 1:], 2, axis=-1)
    covariance = correct - (predicted * true).sum(-1)
    return _ratio(covariance, np.sqrt((1 - (predicted**2).sum(-1)) * (1 - (true**2).sum(-1))))


def _f1_features(logits: NDArray[Any], labels: NDArray[Any]) -> Array:
    predicted, true = _one_hot(logits, labels)
    return np.stack([predicted * true, predicted, true], axis=-1)[:, 1]


def _f1(means: Array) -> Array:
    """F1 of class 1."""
    return _ratio(2 * means[..., 0], means[..., 1] + means[..., 2])


def _macro_f1_features(logits: NDArray[Any], labels: NDArray[Any]) -> Array:
    predicted, true = _one_hot(logits, labels)
    return np.concatenate([predicted * true, predicted, true], axis=1)


def _macro_f1(means: Array) -> Array:
    """Mean F1 of the classes that occur among labels or predictions."""
    hits, predicted, true = np.split(means, 3, axis=-1)
    occurs = predicted + true > 0
    mean: Array = _ratio(2 * hits, predicted + true).sum(-1) / occurs.sum(-1)
    return mean


def _moments(x: Array, y: Array) -> Array:
    x, y = x - x.mean(), y - y.mean()
    return np.stack([x, y, x * x, y * y, x * y], axis=1)


def _pearson_features(predictions: NDArray[Any], labels: NDArray[Any]) -> Array:
    return _moments(predictions[:, 0].astype(float), labels.astype(float))


def _spearman_features(predictions: NDArray[Any], labels: NDArray[Any]) -> Array:
    """Ranks of the full sample: a resample keeps them, which ignores only how its ties would be ranked anew."""
    return _moments(rankdata(predictions[:, 0]), rankdata(labels))


def _correlation(means: Array) -> Array:
    x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
    return _ratio(xy - x * y, np.sqrt(np.clip((xx - x * x) * (yy - y * y), 0, None)))


def _r2_features(predictions: NDArray[Any], labels: NDArray[Any]) -> Array:
    """Squared error and squared label over all outputs together, then every output's label, all centred."""
    true = labels.astype(float)
    error, centred = true - predictions, true - true.mean(axis=0)
    return np.column_stack([(error**2).sum(1), (centred**2).sum(1), centred])


def _r2(means: Array) -> Array:
    """Share of the variance of all outputs together that is explained."""
    variance = means[..., 1] - (means[..., 2:] ** 2).sum(-1)
    return np.where(variance > 0, 1 - _ratio(means[..., 0], variance), 0.0)


def _both(first: ItemMetric, second: ItemMetric, parts: int) -> ItemMetric:
    """The mean of two metrics, of which the first has so many features."""
    return ItemMetric(
        lambda predictions, labels: np.concatenate(
            [first.features(predictions, labels), second.features(predictions, labels)], axis=1
        ),
        lambda means: (first.value(means[..., :parts]) + second.value(means[..., parts:])) / 2,
    )


def _column(index: int) -> ItemMetric:
    """The mean of a score that every item has of its own, as answers that are texts."""
    return ItemMetric(lambda scores, labels: scores[:, [index]].astype(float), lambda means: means[..., 0])


_ACCURACY = ItemMetric(_correct, lambda means: means[..., 0])
_F1 = ItemMetric(_f1_features, _f1)
_PEARSON = ItemMetric(_pearson_features, _correlation)
_SPEARMAN = ItemMetric(_spearman_features, _correlation)

METRICS = {
    "accuracy": _ACCURACY,
    "matthews_correlation": ItemMetric(_matthews_features, _matthews),
    "f1": _F1,
    "accuracy_f1": _both(_ACCURACY, _F1, 1),
    "f1_macro": ItemMetric(_macro_f1_features, _macro_f1),
    "pearson": _PEARSON,
    "spearman": _SPEARMAN,
    "pearson_spearman": _both(_PEARSON, _SPEARMAN, 5),
    "exact_match": _column(0),
    "answer_f1": _column(1),
    "r2": ItemMetric(_r2_features, _r2),
}
ALIASES = {
    "matthews": "matthews_correlation",
    "mcc": "matthews_correlation",
    "macro_f1": "f1_macro",
    "pearsonr": "pearson",
    "spearmanr": "spearman",
}


def item_metric(name: str) -> ItemMetric:
    """The metric of that name; `BadRequestError` if the report cannot resample it."""
    try:
        return METRICS[ALIASES.get(name, name)]
    except KeyError:
        known = ", ".join(sorted(METRICS))
        raise BadRequestError(f"the report cannot resample the metric {name!r}; it knows {known}") from None
