"""Metrics against counts by hand, scikit-learn and SciPy: on all items, and on resamples of them."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import METRICS, find_metric, parse_source

# Predictions 1 1 0 0 1 0 against labels 1 0 0 1 1 0: TP 2, FP 1, FN 1, TN 2.
LOGITS = np.array([[0, 1], [0, 2], [1, 0], [3, 0], [0, 1], [1, 0]], dtype=np.float32)
LABELS = np.array([1, 0, 0, 1, 1, 0])
OF_CLASSES = {
    "accuracy": sk.accuracy_score,
    "f1": sk.f1_score,
    "f1_macro": lambda y, p: sk.f1_score(y, p, average="macro"),
    "matthews_corrcoef": sk.matthews_corrcoef,
    "accuracy_f1": lambda y, p: (sk.accuracy_score(y, p) + sk.f1_score(y, p)) / 2,
}
OF_NUMBERS = {
    "pearson": lambda y, p: stats.pearsonr(p, y).statistic,
    "spearman": lambda y, p: stats.spearmanr(p, y).statistic,
    "pearson_spearman": lambda y, p: (stats.pearsonr(p, y).statistic + stats.spearmanr(p, y).statistic) / 2,
    "r2": sk.r2_score,
}


def exactly(value):
    return pytest.approx(value, rel=0, abs=1e-12)


def score(name, predictions, labels):
    return find_metric(name).scores(predictions, labels)[name]


def resampled(name, predictions, labels, chosen):
    """The metric of the items `chosen`, from the features of all."""
    metric = find_metric(name)
    weights = np.bincount(chosen, minlength=len(labels)) / len(chosen)
    return metric.value(weights @ metric.features(predictions, labels))


def test_every_metric_is_tested_and_registered_under_its_name():
    of_texts = {"exact_match", "answer_f1", "neg_log_loss"}
    assert set(METRICS) == set(OF_CLASSES) | set(OF_NUMBERS) | of_texts
    assert all(metric.name == name for name, metric in METRICS.items())


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("accuracy", 4 / 6),
        ("f1", 2 * 2 / (2 * 2 + 1 + 1)),
        ("f1_macro", 4 / 6),
        ("matthews_corrcoef", (2 * 2 - 1 * 1) / (3 * 3 * 3 * 3) ** 0.5),
    ],
)
def test_values_by_hand(metric, value):
    values = find_metric(metric).scores(LOGITS, LABELS)
    assert values[metric] == exactly(value)
    assert values["accuracy"] == exactly(4 / 6)
    assert set(values) == {"accuracy", metric}


@pytest.mark.parametrize(
    ("name", "classes"), [(name, n) for name in OF_CLASSES for n in (2, 5) if n == 2 or not METRICS[name].binary]
)
def test_metrics_of_classes_are_those_of_scikit_learn(name, classes):
    draw = np.random.default_rng(0)
    labels, logits = draw.integers(classes, size=200), draw.standard_normal((200, classes))
    said, chosen = logits.argmax(1), draw.integers(200, size=200)
    assert score(name, logits, labels) == exactly(OF_CLASSES[name](labels, said))
    assert resampled(name, logits, labels, chosen) == exactly(OF_CLASSES[name](labels[chosen], said[chosen]))


def test_accuracy_is_bitwise_that_of_scikit_learn():
    draw = np.random.default_rng(1)
    for items in range(1, 500):
        labels, logits = draw.integers(3, size=items), draw.standard_normal((items, 3)).astype(np.float32)
        assert score("accuracy", logits, labels) == sk.accuracy_score(labels, logits.argmax(1))


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize("logits", [[1.0, 0.0], [0.0, 1.0]], ids=["never", "always"])
def test_a_constant_prediction_is_a_number_not_a_warning(name, logits, recwarn):
    constant = np.tile(logits, (6, 1))
    values = find_metric(name).scores(constant, LABELS)
    assert np.isfinite(list(values.values())).all()
    assert values[name] == exactly(OF_CLASSES[name](LABELS, constant.argmax(1)))
    assert len(recwarn) == 0


def test_macro_f1_counts_the_classes_that_occur():
    """As scikit-learn does by default: a class without any example or prediction has no F1."""
    logits = np.eye(3)[[0, 0, 1, 1]]
    assert score("f1_macro", logits, np.array([0, 0, 1, 1])) == 1.0
    assert score("f1_macro", logits, np.array([0, 0, 1, 2])) == exactly((1 + 2 / 3) / 3)


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_metrics_of_numbers_are_those_of_scipy_and_scikit_learn(name):
    """Labels have ties, as those of STS-B."""
    draw = np.random.default_rng(2)
    labels = np.round(draw.uniform(0, 5, 200), 1)
    outputs = (labels + draw.standard_normal(200)).astype(np.float32)
    expected = OF_NUMBERS[name](labels, outputs.astype(np.float64))
    assert score(name, outputs[:, None], labels) == exactly(expected)
    chosen = draw.integers(200, size=200)
    # Spearman's ranks are those of the full sample, whose ties are not those of the resample.
    tolerance = {"spearman": 0.02, "pearson_spearman": 0.01}.get(name, 1e-12)
    of_resample = OF_NUMBERS[name](labels[chosen], outputs[chosen].astype(np.float64))
    assert resampled(name, outputs[:, None], labels, chosen) == pytest.approx(of_resample, rel=0, abs=tolerance)


def test_neg_log_loss_is_the_mean_over_tokens_not_over_items():
    """An item has the summed loss of its tokens, and their number."""
    draw = np.random.default_rng(5)
    tokens = draw.integers(1, 9, size=50)
    log_p = [np.log(draw.uniform(0.01, 1, n)) for n in tokens]
    scores = np.stack([np.zeros(50), np.zeros(50), [-each.sum() for each in log_p], tokens], axis=1)
    assert score("neg_log_loss", scores, None) == exactly(np.concatenate(log_p).mean())
    chosen = draw.integers(50, size=50)
    expected = np.concatenate([log_p[i] for i in chosen]).mean()
    assert resampled("neg_log_loss", scores, np.ones(50), chosen) == exactly(expected)


@pytest.mark.parametrize("name", ["pearson", "spearman", "pearson_spearman"])
@pytest.mark.parametrize("constant", [1.0, 0.1])
def test_a_constant_prediction_correlates_with_nothing(name, constant, recwarn):
    labels = np.random.default_rng(3).uniform(0, 5, 200)
    assert set(find_metric(name).scores(np.full((200, 1), constant), labels).values()) == {0.0}
    assert set(find_metric(name).scores(labels[:, None], np.full(200, constant)).values()) == {0.0}
    assert len(recwarn) == 0


def test_r2_of_vectors_weighs_outputs_by_their_variance():
    draw = np.random.default_rng(4)
    labels = draw.standard_normal((120, 3)) * [5.0, 1.0, 0.2] + [0.0, 7.0, -3.0]
    outputs = labels + draw.standard_normal((120, 3))
    chosen = draw.integers(120, size=120)

    def reference(y, p):
        return sk.r2_score(y, p, multioutput="variance_weighted")

    assert score("r2", outputs, labels) == exactly(reference(labels, outputs))
    assert resampled("r2", outputs, labels, chosen) == exactly(reference(labels[chosen], outputs[chosen]))


@pytest.mark.parametrize("outputs", [[1.0, 2.0], [1.0, 3.0], [0.0, 0.0]], ids=["right", "half", "wrong"])
def test_r2_of_constant_labels_is_the_share_that_is_right(outputs, recwarn):
    labels, predictions = np.tile([1.0, 2.0], (9, 1)), np.tile(outputs, (9, 1))
    assert score("r2", predictions, labels) == sk.r2_score(labels, predictions, multioutput="variance_weighted")
    assert len(recwarn) == 0


def test_r2_leaves_out_an_output_whose_label_is_constant():
    draw = np.random.default_rng(5)
    labels = np.column_stack([draw.standard_normal(50), np.ones(50)])
    outputs = draw.standard_normal((50, 2))
    assert score("r2", outputs, labels) == exactly(sk.r2_score(labels, outputs, multioutput="variance_weighted"))


def test_scores_of_answers_are_averaged():
    scores = np.array([[1.0, 1.0, 9.0], [0.0, 0.5, 9.0], [0.0, 0.0, 9.0]], dtype=np.float32)
    for name in ("exact_match", "answer_f1"):
        assert find_metric(name).scores(scores, np.ones(3)) == {
            "exact_match": exactly(1 / 3),
            "answer_f1": exactly(0.5),
        }


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("accuracy", set()),
        ("accuracy_f1", {"accuracy", "f1"}),
        ("pearson", set()),
        ("pearson_spearman", {"pearson", "spearman"}),
        ("r2", set()),
    ],
)
def test_the_parts_of_a_mean_are_reported_beside_it(name, beside):
    assert {metric.name for metric in METRICS[name].beside} == beside


def test_nothing_is_measured_on_logits_that_are_not_finite():
    broken = LOGITS.copy()
    broken[2, 0] = np.nan
    with pytest.raises(FloatingPointError, match="logits of 1 of 6 examples"):
        find_metric("accuracy").scores(broken, LABELS)
    with pytest.raises(FloatingPointError):
        find_metric("r2").scores(np.full((6, 3), np.inf), np.zeros((6, 3)))


def test_an_unknown_metric_is_refused():
    with pytest.raises(BadRequestError, match="metric 'bleu' is unknown: use one of accuracy"):
        find_metric("bleu")


@pytest.mark.parametrize(
    ("task", "hint"),
    [
        ({"train": "a.csv", "metric": "macro_f1"}, "did you mean f1_macro?"),
        ({"train": "a.csv", "metric": "matthews"}, "did you mean matthews_corrcoef?"),
        ({"train": "a.csv", "metric": "pearson"}, "use one of accuracy, f1, f1_macro, matthews_corrcoef, accuracy_f1"),
        ({"type": "regression", "train": "a.csv", "metric": "pearsonr"}, "did you mean pearson?"),
    ],
)
def test_a_task_takes_the_metrics_of_its_predictions(task, hint):
    with pytest.raises(BadRequestError, match=rf"task\.metric is '{task['metric']}': .*{hint[:-1]}"):
        parse_source(task)
