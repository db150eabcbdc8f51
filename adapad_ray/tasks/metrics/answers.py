"""Metrics of answers that are texts: means of a score that every answer has (see `squad_scores`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapad_ray.tasks.metrics.base import Array, Metric


class AnswerScore(Metric):
    """The mean over items of one column of their scores."""

    predicted = "answers"
    right_or_wrong = True

    def __init__(self, name: str, column: int, beside: tuple[Metric, ...] = ()) -> None:
        self.name, self.column, self.beside = name, column, beside

    def features(self, predictions: NDArray[Any], labels: NDArray[Any]) -> Array:
        """The item's score, `[items, 1]`."""
        return predictions[:, [self.column]].astype(np.float64)

    def value(self, means: Array) -> Array:
        """The mean score."""
        value: Array = means[..., 0]
        return value


_EXACT_MATCH, _F1 = AnswerScore("exact_match", 0), AnswerScore("answer_f1", 1)
EXACT_MATCH = AnswerScore("exact_match", 0, beside=(_F1,))
"""The share of answers that equal a gold answer once normalised: column 0 of an answer's scores."""
ANSWER_F1 = AnswerScore("answer_f1", 1, beside=(_EXACT_MATCH,))
"""F1 of the words that answer and gold answer share: column 1."""
