"""Metrics from weighted sums agree with scikit-learn and SciPy on the resampled items themselves."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from adapad_ray.errors import BadRequestError
from adapad_ray.report.metrics import item_metric

REFERENCE = {
    "accuracy": lambda y, p: sk.accuracy_score(y, p.argmax(1)),
    "matthews_correlation": lambda y, p: sk.matthews_corrcoef(y, p.argmax(1)),
    "f1_macro": lambda y, p: sk.f1_score(y, p.argmax(1), average="macro"),
}


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("classes", [2, 5])
def test_classification_on_a_resample(name, classes):
    generator = np.random.default_rng(0)
    labels, logits = generator.integers(classes, size=200), generator.standard_normal((200, classes))
    chosen = generator.integers(200, size=200)
    metric = item_metric(name)
    value = metric.value(np.bincount(chosen, minlength=200) / 200 @ metric.features(logits, labels))
    assert value == pytest.approx(REFERENCE[name](labels[chosen], logits[chosen]))


def test_binary_f1_and_a_degenerate_prediction():
    generator = np.random.default_rng(1)
    labels, logits = generator.integers(2, size=99), generator.standard_normal((99, 2))
    metric = item_metric("f1")
    value = metric.value(metric.features(logits, labels).mean(0))
    assert value == pytest.approx(sk.f1_score(labels, logits.argmax(1)))
    always_zero = np.tile([1.0, 0.0], (99, 1))
    for name in ("f1", "mcc"):
        metric = item_metric(name)
        assert metric.value(metric.features(always_zero, labels).mean(0)) == 0


@pytest.mark.parametrize(("name", "reference"), [("pearson", stats.pearsonr), ("spearman", stats.spearmanr)])
def test_correlations(name, reference):
    generator = np.random.default_rng(2)
    labels = generator.uniform(0, 5, 150)
    scores = (labels + generator.standard_normal(150))[:, None]
    metric = item_metric(name)
    value = metric.value(metric.features(scores, labels).mean(0))
    assert value == pytest.approx(reference(scores[:, 0], labels).statistic)


def test_r2_of_vectors_on_a_resample():
    generator = np.random.default_rng(3)
    labels = generator.standard_normal((120, 3)) * [5.0, 1.0, 0.2] + [0.0, 7.0, -3.0]
    outputs = labels + generator.standard_normal((120, 3))
    chosen = generator.integers(120, size=120)
    metric = item_metric("r2")
    value = metric.value(np.bincount(chosen, minlength=120) / 120 @ metric.features(outputs, labels))
    assert value == pytest.approx(sk.r2_score(labels[chosen], outputs[chosen], multioutput="variance_weighted"))


def test_an_unknown_metric_is_named():
    with pytest.raises(BadRequestError, match="'bleu'"):
        item_metric("bleu")
