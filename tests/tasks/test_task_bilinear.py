"""The linear setting: its factors, its loss, and the terms that deflation should find, against numpy."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import BilinearSource, find_metric, make_bilinear, parse_source, resolve_task
from adapad_ray.tasks.losses import half_squared_error

SPECTRUM = (2.0, 1.0, 0.5)


def source(**changes):
    fields = {"in_features": 8, "out_features": 6, "examples": 20, "spectrum": SPECTRUM}
    return BilinearSource(type="bilinear", **{**fields, **changes})


def matrices(split):
    """X `[d, n]` and Y `[m, n]` as the paper writes them."""
    return split.inputs.T, split.labels.T


def test_all_splits_have_the_same_factors_with_the_chosen_spectrum():
    weights = []
    for split in make_bilinear(source()).splits.values():
        x, y = matrices(split)
        weights.append(y @ np.linalg.pinv(x))
    np.testing.assert_allclose(np.linalg.svd(weights[0])[1], [*SPECTRUM, 0, 0, 0], atol=1e-12)
    for other in weights[1:]:
        np.testing.assert_allclose(other, weights[0], atol=1e-12)


def test_rows_of_x_are_orthogonal_and_of_the_length_of_normal_ones():
    x, _ = matrices(make_bilinear(source()).splits["train"])
    np.testing.assert_allclose(x @ x.T, 20 * np.eye(8), atol=1e-10)
    x, _ = matrices(make_bilinear(source(inputs="gaussian", examples=20_000)).splits["train"])
    np.testing.assert_allclose(x @ x.T / 20_000, np.eye(8), atol=0.05)


def test_noise_lies_on_every_entry():
    x, y = matrices(make_bilinear(source(noise=0.3, examples=5000)).splits["test"])
    clean_x, clean_y = matrices(make_bilinear(source(examples=5000)).splits["train"])
    weight = clean_y @ np.linalg.pinv(clean_x)
    assert np.std(y - weight @ x) == pytest.approx(0.3, rel=0.02)


def test_the_seed_decides():
    first, again, other = (make_bilinear(source(seed=seed)) for seed in (0, 0, 1))
    assert first.digest == again.digest != other.digest
    assert np.array_equal(first.splits["train"].labels, again.splits["train"].labels)


def test_the_mean_loss_of_a_full_batch_is_the_papers_objective_over_n():
    split = make_bilinear(source()).splits["train"]
    batch = split.batch(np.arange(20), pad_token_id=0)
    w = np.random.default_rng(0).standard_normal((6, 8))
    outputs = batch["inputs_embeds"] @ torch.from_numpy(w).T
    x, y = matrices(split)
    expected = 0.5 * np.linalg.norm(y - w @ x, "fro") ** 2 / 20
    assert half_squared_error(SimpleNamespace(logits=outputs), batch["labels"]).mean().item() == pytest.approx(expected)


@pytest.mark.parametrize("changes", [{}, {"inputs": "gaussian", "noise": 0.4}], ids=["exact", "noisy"])
def test_the_true_components_are_the_svd_of_the_best_fit(changes):
    data = make_bilinear(source(**changes))
    x, y = matrices(data.splits["train"])
    u, s, vt = np.linalg.svd(y @ np.linalg.pinv(x) @ x, full_matrices=False)
    found = len(data.components.values)
    assert found == (3 if not changes else 6)
    np.testing.assert_allclose(data.components.values, s[:found], rtol=1e-10)
    for k in range(1, found + 1):
        b = s[k - 1] * u[:, k - 1]
        a = np.linalg.pinv(x).T @ vt[k - 1]
        assert data.components.error(k, a, b) < 1e-12
        assert data.components.error(k, a, -b) == pytest.approx(2)
        assert data.components.error(k, a, 0 * b) == pytest.approx(1)


def test_a_split_is_covered_once_and_each_example_counts_as_a_token():
    split = make_bilinear(source()).splits["validation"]
    assert np.concatenate(split.evaluation_batches(8)).tolist() == list(range(20))
    batch = split.batch(np.array([3, 1]), pad_token_id=0)
    assert batch["inputs_embeds"].dtype == torch.float64 and batch["labels"].shape == (2, 6)
    assert split.size_of(batch) == (2, 2) and split.lengths.tolist() == [1] * 20


def test_r2_is_the_share_of_all_variance_that_is_explained():
    draw = np.random.default_rng(0)
    labels = draw.standard_normal((50, 3)) * [5.0, 1.0, 0.2]
    outputs = labels + draw.standard_normal((50, 3))
    explained = 1 - ((labels - outputs) ** 2).sum() / ((labels - labels.mean(axis=0)) ** 2).sum()
    assert find_metric("r2").scores(outputs, labels) == {"r2": pytest.approx(explained)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spectrum": [1.0, 1.0]}, "must fall strictly"),
        ({"spectrum": [1.0, -0.5]}, "spectrum"),
        ({"spectrum": [3.0, 2.0, 1.0], "out_features": 2}, "3 values where the features allow 2"),
        ({"examples": 5}, "examples 5 must not be below in_features 32"),
        ({"noice": 0.1}, "task.noice is unknown: did you mean noise"),
    ],
)
def test_a_setting_that_cannot_be_met_is_refused(fields, message):
    with pytest.raises(BadRequestError, match=message):
        parse_source({"type": "bilinear", **fields})


def test_the_name_alone_means_the_defaults():
    assert resolve_task("bilinear") == BilinearSource(type="bilinear")
