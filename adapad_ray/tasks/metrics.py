"""Metrics, all of them better when higher."""

from __future__ import annotations

import numpy as np

from adapad_ray.errors import BadRequestError

METRICS = ("accuracy", "f1", "macro_f1", "matthews", "accuracy_f1")
"""Of classes."""
REGRESSION = ("r2", "pearson", "spearman", "pearson_spearman")
"""Of numbers."""


def compute_metrics(metric: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the deciding metric and, by name, what is reported beside it: the parts of a mean, and accuracy.

    Args:
        metric: `accuracy`, `f1` (of label 1), `macro_f1`, `matthews` or `accuracy_f1`, the mean of the two; or of
            numbers `r2`, the share of the variance of all outputs together that is explained, `pearson`, `spearman`
            or `pearson_spearman`, the mean of the two.
        logits: `[examples, classes]`; the largest wins, the first of equals. Of numbers the outputs.
        labels: int `[examples]`; of numbers float `[examples]`, and for `r2` `[examples, outputs]` too.

    Raises:
        FloatingPointError: a logit is not finite, so that there is no largest one.
        BadRequestError: the metric is unknown.
    """
    if metric not in (*METRICS, *REGRESSION):
        raise BadRequestError(f"metric {metric!r} is unknown: use one of {', '.join((*METRICS, *REGRESSION))}")
    check_finite(logits)
    return _of_numbers(metric, logits, labels) if metric in REGRESSION else _of_classes(metric, logits, labels)


def check_finite(outputs: np.ndarray) -> None:
    """Refuse outputs `[examples, …]` of which some are no numbers.

    Raises:
        FloatingPointError: there are such.
    """
    if not np.isfinite(outputs).all():
        rows = int((~np.isfinite(outputs)).reshape(len(outputs), -1).any(axis=1).sum())
        raise FloatingPointError(f"logits of {rows:,} of {len(outputs):,} examples are not finite")


def _of_classes(metric: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    predictions = logits.argmax(axis=1)
    values = {"accuracy": float(accuracy_score(labels, predictions))}
    if metric in ("f1", "accuracy_f1"):
        values["f1"] = float(f1_score(labels, predictions, pos_label=1, average="binary", zero_division=0.0))
    if metric == "accuracy_f1":
        values["accuracy_f1"] = (values["accuracy"] + values["f1"]) / 2
    elif metric == "macro_f1":
        values["macro_f1"] = float(f1_score(labels, predictions, average="macro", zero_division=0.0))
    elif metric == "matthews":
        values["matthews"] = float(matthews_corrcoef(labels, predictions))
    return values


def _of_numbers(metric: str, outputs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import r2_score

    if metric == "r2":
        return {"r2": float(r2_score(labels, outputs, multioutput="variance_weighted"))}
    predictions = outputs[:, 0].astype(float)
    constant = np.ptp(predictions) == 0 or np.ptp(labels) == 0  # no correlation is defined: counts as none
    values = {}
    if metric in ("pearson", "pearson_spearman"):
        values["pearson"] = 0.0 if constant else float(pearsonr(predictions, labels).statistic)
    if metric in ("spearman", "pearson_spearman"):
        values["spearman"] = 0.0 if constant else float(spearmanr(predictions, labels).statistic)
    if metric == "pearson_spearman":
        values["pearson_spearman"] = (values["pearson"] + values["spearman"]) / 2
    return values
