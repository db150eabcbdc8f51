"""Metrics of predicted numbers, as functions of their first and second moments."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapad_ray.tasks.metrics.base import Array, Metric, ratio


class Pearson(Metric):
    """Pearson's correlation of the first output and the label; 0 where either is constant."""

    name = "pearson"
    predicted = "numbers"

    def features(self, predictions: NDArray[Any], labels: NDArray[Any]) -> Array:
        """x, y, x², y², xy of the centred predictions x and labels y, `[items, 5]`."""
        return _moments(predictions[:, 0].astype(np.float64), labels.astype(np.float64))

    def value(self, means: Array) -> Array:
        """`(E xy - E x E y) / √(var x · var y)`."""
        x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
        return ratio(xy - x * y, np.sqrt(np.clip((xx - x * x) * (yy - y * y), 0, None)))


class Spearman(Pearson):
    """Spearman's correlation, which is Pearson's of the ranks.

    A resample keeps the ranks that its items have in the full sample: ties among items drawn twice are not ranked anew.
    """

    name = "spearman"

    def features(self, predictions: NDArray[Any], labels: NDArray[Any]) -> Array:
        """Moments of the ranks, `[items, 5]`; equal values share their mean rank."""
        from scipy.stats import rankdata  # its import is slow

        return _moments(rankdata(predictions[:, 0]), rankdata(labels))


class R2(Metric):
    """The explained share of the variance of all outputs: scikit-learn's `r2_score` with `variance_weighted`."""

    name = "r2"
    predicted = "numbers"

    def features(self, predictions: NDArray[Any], labels: NDArray[Any]) -> Array:
        """Squared error, centred label and its square, for every output, `[items, 3 · outputs]`."""
        true = labels.astype(np.float64).reshape(len(labels), -1)
        centred = _centred(true)
        return np.concatenate([(true - predictions) ** 2, centred, centred**2], axis=1)

    def value(self, means: Array) -> Array:
        """`1 - Σ errors / Σ variances` over the outputs whose labels vary; if none do, the share predicted exactly."""
        errors, centred, squares = np.split(means, 3, axis=-1)
        variances = np.clip(squares - centred**2, 0, None)
        varies = variances > 0
        unexplained = ratio(np.where(varies, errors, 0.0).sum(-1), variances.sum(-1))
        return np.where(varies.any(-1), 1 - unexplained, (errors == 0).mean(-1))


def _centred(values: Array) -> Array:
    """Values `[items, …]` minus their mean over the items; exactly 0 where all items are equal."""
    centred: Array = np.where(np.ptp(values, axis=0) > 0, values - values.mean(axis=0), 0.0)
    return centred


def _moments(x: Array, y: Array) -> Array:
    x, y = _centred(x), _centred(y)
    return np.stack([x, y, x * x, y * y, x * y], axis=1)
