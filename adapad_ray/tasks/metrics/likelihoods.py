"""Metrics of what a language model gives to right answers: means over their tokens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapad_ray.tasks.metrics.base import Array, Metric


class NegLogLoss(Metric):
    """Minus the loss: the mean of `log p(token)` over the tokens of all answers, so that long answers count more."""

    name = "neg_log_loss"
    predicted = "likelihoods"

    def features(self, predictions: NDArray[Any], labels: NDArray[Any]) -> Array:
        """The summed loss of an item's answers and the number of their tokens: columns 2 and 3 of its scores."""
        return predictions[:, 2:4].astype(np.float64)

    def value(self, means: Array) -> Array:
        """Minus the loss of a token."""
        value: Array = -means[..., 0] / means[..., 1]
        return value


NEG_LOG_LOSS = NegLogLoss()


def perplexity(loss: float) -> float:
    """`exp(loss)`: reported beside the metric, and better when lower."""
    return math.exp(min(loss, 700.0))
