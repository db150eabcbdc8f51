"""Metrics, all of them better when higher."""

from __future__ import annotations

import numpy as np

from adapad_ray.errors import BadRequestError

METRICS = ("accuracy", "f1", "macro_f1", "matthews")
"""Of classification."""
REGRESSION = ("r2",)
"""Of tasks whose labels are numbers."""


def compute_metrics(metric: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the deciding metric, and for classes accuracy beside it, by name.

    Args:
        metric: `accuracy`, `f1` (of label 1), `macro_f1` or `matthews`; or `r2`, the share of the variance of all
            outputs together that is explained.
        logits: `[examples, classes]`; the largest wins, the first of equals. For `r2` the outputs.
        labels: int `[examples]`; for `r2` float `[examples, outputs]`.

    Raises:
        FloatingPointError: a logit is not finite, so that there is no largest one.
        BadRequestError: the metric is unknown.
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, r2_score

    if metric not in (*METRICS, *REGRESSION):
        raise BadRequestError(f"metric {metric!r} is unknown: use one of {', '.join((*METRICS, *REGRESSION))}")
    if not np.isfinite(logits).all():
        rows = int((~np.isfinite(logits)).any(axis=1).sum())
        raise FloatingPointError(f"logits of {rows:,} of {len(logits):,} examples are not finite")
    if metric == "r2":
        return {"r2": float(r2_score(labels, logits, multioutput="variance_weighted"))}
    predictions = logits.argmax(axis=1)
    values = {"accuracy": float(accuracy_score(labels, predictions))}
    if metric == "f1":
        values["f1"] = float(f1_score(labels, predictions, pos_label=1, average="binary", zero_division=0.0))
    elif metric == "macro_f1":
        values["macro_f1"] = float(f1_score(labels, predictions, average="macro", zero_division=0.0))
    elif metric == "matthews":
        values["matthews"] = float(matthews_corrcoef(labels, predictions))
    return values
