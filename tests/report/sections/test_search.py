"""The section on searches: trials, comparisons and escaped reasons."""

import pandas as pd
import pytest

from adapad_ray.report.inputs import ReportInputs
from adapad_ray.report.page import build_report
from tests.report.searched_sweep import SEARCHED, write_searched_sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    write_searched_sweep(folder)
    return folder


def test_the_page_shows_trials_comparisons_and_escaped_reasons(folder):
    report = build_report(folder, ReportInputs(title="toy", searched=[SEARCHED], draws=200))
    page = report.files["report.html"].read_text()
    assert report.verdicts[0] in page.replace("&#39;", "'")
    assert "lane 1, step 3 &lt;&amp;&gt;" in page
    assert len(pd.read_csv(report.files["trials.csv"])) == 12
    assert set(report.files) >= {"trials.csv", "search.png", "search.svg"}
    assert page.count('<tr class="chosen">') == 2 + 1, "two retrained trials, and the recommendation"


def test_a_sweep_without_a_search_has_no_such_section(folder):
    report = build_report(folder, ReportInputs(title="toy", draws=50))
    assert "The search" not in report.files["report.html"].read_text()
