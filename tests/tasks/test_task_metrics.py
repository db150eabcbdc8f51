"""Metrics, against counts done by hand."""

import numpy as np
import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import METRICS, compute_metrics

# Predictions 1 1 0 0 1 0 against labels 1 0 0 1 1 0: TP 2, FP 1, FN 1, TN 2.
LOGITS = np.array([[0, 1], [0, 2], [1, 0], [3, 0], [0, 1], [1, 0]], dtype=np.float32)
LABELS = np.array([1, 0, 0, 1, 1, 0])


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("accuracy", 4 / 6),
        ("f1", 2 * 2 / (2 * 2 + 1 + 1)),
        ("macro_f1", 4 / 6),
        ("matthews", (2 * 2 - 1 * 1) / (3 * 3 * 3 * 3) ** 0.5),
    ],
)
def test_values_by_hand(metric, value):
    values = compute_metrics(metric, LOGITS, LABELS)
    assert values[metric] == pytest.approx(value)
    assert values["accuracy"] == pytest.approx(4 / 6)
    assert set(values) == {"accuracy", metric}


@pytest.mark.parametrize("metric", METRICS)
def test_a_constant_prediction_is_a_number_not_a_warning(metric, recwarn):
    values = compute_metrics(metric, np.tile([1.0, 0.0], (6, 1)), LABELS)
    assert np.isfinite(list(values.values())).all()
    assert len(recwarn) == 0


def test_macro_f1_counts_the_classes_that_occur():
    """As scikit-learn does by default, and as the report recomputes it: a class without any example has no F1."""
    logits = np.eye(3)[[0, 0, 1, 1]]
    assert compute_metrics("macro_f1", logits, np.array([0, 0, 1, 1]))["macro_f1"] == 1.0
    assert compute_metrics("macro_f1", logits, np.array([0, 0, 1, 2]))["macro_f1"] == pytest.approx((1 + 2 / 3) / 3)


def test_nothing_is_measured_on_logits_that_are_not_finite():
    broken = LOGITS.copy()
    broken[2, 0] = np.nan
    with pytest.raises(FloatingPointError, match="logits of 1 of 6 examples"):
        compute_metrics("accuracy", broken, LABELS)


def test_an_unknown_metric_is_refused():
    with pytest.raises(BadRequestError, match="metric 'bleu' is unknown: use one of accuracy"):
        compute_metrics("bleu", LOGITS, LABELS)
