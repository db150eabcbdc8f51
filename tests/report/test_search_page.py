"""What the report says of a search, on a study and cells that are known."""

import optuna
import pandas as pd
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from adapad_ray.report.curves import Curves
from adapad_ray.report.inputs import SearchedLabel
from adapad_ray.report.page import build_report
from adapad_ray.report.search import read_searches
from adapad_ray.results import CellResult
from tests.report.factory import SweepFactory

SPACE = {"budget": IntDistribution(10_000, 100_000, log=True), "growth_threshold": FloatDistribution(0.5, 2.0)}
SEARCHED = SearchedLabel("adapad", "toy/adapad/1", 12, "adapad/front", [0, 3])


def write_study(folder, trials=12):
    """Validation follows the budget alone; trial 5 has failed, and a thirteenth is not asked for any more."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'optuna.db'}")
    study = optuna.create_study(storage=storage, study_name=SEARCHED.study, directions=["maximize", "minimize"])
    for i in range(trials + 1):
        budget = 10_000 + 7_000 * i
        params = {"budget": budget, "growth_threshold": 0.5 + 1.5 * ((7 * i) % 12) / 12}
        failed = i == 5
        study.add_trial(
            optuna.create_trial(
                state=TrialState.FAIL if failed else TrialState.COMPLETE,
                values=None if failed else [0.7 + 0.002 * i, float(budget)],
                params=params,
                distributions=SPACE,
                user_attrs={"reason": "DivergedError: lane 1, step 3 <&>"} if failed else {},
            )
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Default points at three sizes, one below the whole front; the front beats the second and loses to the third."""
    factory = SweepFactory(tmp_path_factory.mktemp("runs") / "sweep", items=2000)
    for seed in range(3):
        factory.cell("adapad", 9_216, seed, 0.70)
        factory.cell("adapad", 41_472, seed, 0.72)
        factory.cell("adapad", 82_944, seed, 0.90)
        factory.cell("adapad/front", 20_000, seed, 0.80, 0.80)
        factory.cell("adapad/front", 40_000, seed, 0.78, 0.84)  # better on test, which decides nothing
        factory.cell("adapad/front", 90_000, seed, 0.95)
    write_study(factory.folder)
    return factory.folder


def results(folder):
    return [CellResult.model_validate_json(path.read_text()) for path in folder.glob("cells/*/result.json")]


@pytest.fixture(scope="module")
def view(folder):
    (view,) = read_searches(folder, [SEARCHED], Curves(results(folder), folder, draws=400))
    return view


def test_the_table_has_the_asked_trials_and_marks_what_no_other_dominates(view):
    assert list(view.trials["trial"]) == list(range(12))
    assert list(view.trials["state"]).count("failed") == 1
    assert view.trials.set_index("trial").loc[5, "reason"] == "DivergedError: lane 1, step 3 <&>"
    assert view.trials["front"].sum() == 11  # each is larger and better than the one before
    assert list(view.trials.loc[view.trials["rerun"], "trial"]) == [0, 3]


def test_a_contest_takes_the_best_on_validation_of_those_that_are_as_small(view):
    chosen = {contest.default: contest.front for contest in view.contests}
    assert chosen == {
        "adapad at 9,216": None,
        "adapad at 41,472": "adapad/front at 20,000",
        "adapad at 82,944": "adapad/front at 20,000",
    }


def test_a_difference_that_is_there_is_established_and_a_defeat_is_said(view):
    nothing, won, lost = view.contests
    assert "nothing on the front is as small" in nothing.sentence
    assert won.ahead and won.shown and won.low > 0
    assert not lost.ahead and not lost.shown and lost.difference < 0
    assert view.verdict == (
        "The front of adapad does not dominate the points of the file's settings on test: it is ahead of 1 of 3; "
        "beyond chance it is better than 1."
    )


def test_what_drives_the_metric_has_the_importance(view):
    shares = {row["name"]: row["metric"] for row in view.importances}
    assert shares["budget"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


def test_the_page_shows_trials_contests_and_escaped_reasons(folder):
    paths = build_report(folder, title="toy", searched=[SEARCHED], draws=200)
    page = paths.html.read_text()
    assert paths.verdicts[0] in page.replace("&#39;", "'")
    assert "lane 1, step 3 &lt;&amp;&gt;" in page
    assert len(pd.read_csv(paths.trials_csv)) == 12
    assert {path.name for path in paths.files} >= {"trials.csv", "search.png", "search.svg"}


def test_a_sweep_without_a_search_has_no_such_section(folder):
    assert "The search" not in build_report(folder, title="toy", draws=50).html.read_text()
