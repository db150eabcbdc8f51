"""Searches are read from their study and compared with the default points, on a study and cells that are known."""

import pytest

from adapad_ray.report.curves import Curves
from adapad_ray.report.records import load_results
from adapad_ray.report.searches import load_searches
from tests.report.searched_sweep import SEARCHED, write_searched_sweep


@pytest.fixture(scope="module")
def search(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    write_searched_sweep(folder)
    (search,) = load_searches(folder, [SEARCHED], Curves(load_results(folder), folder, draws=400))
    return search


def test_the_table_has_the_requested_trials_and_marks_the_front(search):
    assert list(search.trials["trial"]) == list(range(12))
    assert list(search.trials["state"]).count("failed") == 1
    assert search.trials.set_index("trial").loc[5, "reason"] == "DivergedError: lane 1, step 3 <&>"
    assert search.trials["front"].sum() == 11  # each is larger and better than the one before
    assert list(search.trials.loc[search.trials["rerun"], "trial"]) == [0, 3]


def test_a_default_point_is_compared_with_the_best_on_validation_that_is_as_small(search):
    chosen = {comparison.default: comparison.front for comparison in search.comparisons}
    assert chosen == {
        "adapad at 9,216": None,
        "adapad at 41,472": "adapad/front at 20,000",
        "adapad at 82,944": "adapad/front at 20,000",
    }


def test_a_real_difference_is_significant_and_a_loss_is_reported(search):
    nothing, won, lost = search.comparisons
    assert "no configuration on the front is as small" in nothing.sentence
    assert won.dominates and won.significantly_better and won.low > 0
    assert not lost.dominates and not lost.significantly_better and lost.difference < 0
    assert search.verdict == (
        "On the test split the front of adapad does not dominate the default points: it is ahead of 1 of 3; "
        "it is significantly better than 1."
    )


def test_the_setting_that_drives_the_metric_has_the_importance(search):
    shares = {row["name"]: row["metric"] for row in search.importances}
    assert shares["budget"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
