"""The page stands alone, escapes what users wrote, and says what is missing."""

import json
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from adapad_ray.report.inputs import FailedCell, Gap
from adapad_ray.report.page import build_report
from adapad_ray.results import WorkerCost
from tests.report.factory import SweepFactory

HOSTILE = '<script>alert("$x^{")</script>'


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k.split(":")[-1] in ("href", "src", "data", "action", "srcset")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    factory = SweepFactory(tmp_path_factory.mktemp("runs") / "sweep")
    factory.sweep(seeds=2)
    factory.cell(HOSTILE, 41_472, 0, 0.7)
    factory.cell(HOSTILE, 82_944, 0, 0.7)
    for rate, accuracy in ((5e-3, 0.8), (2e-3, 0.85)):
        factory.cell("lora", 41_472, 0, accuracy, stage="tune", training={"learning_rate": rate})
    return factory.folder


@pytest.fixture(scope="module")
def report(folder):
    return build_report(
        folder,
        title=f"title {HOSTILE}",
        mlflow_url="mlflow ui --backend-store-uri sqlite:///mlflow.db",
        notes=[Gap("lora", 10_368, f"below one rank of 36 modules {HOSTILE}")],
        failed=[FailedCell("adapad", 41_472, 2, "loss of lane 3 is not finite at step 17")],
        draws=200,
    )


def test_every_file_is_written(report, folder):
    names = {path.name for path in report.files}
    assert {
        "curve.csv",
        "curve.png",
        "curve.svg",
        "ranks.png",
        "ranks.svg",
        "growth.png",
        "growth.svg",
        "recommendation.json",
        "report.html",
    } <= names
    assert all(path.stat().st_size > 0 for path in report.files)
    assert len(pd.read_csv(report.curve_csv)) > 11
    assert json.loads(report.recommendation_json.read_text())["sentence"] == report.recommendation.sentence
    assert not list(folder.glob(".*"))


def test_the_page_needs_no_network(report):
    html = report.html.read_text()
    elements = Elements(html)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in elements.addresses)
    assert not {"script", "link", "img", "iframe", "object"} & set(elements.tags)
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert "prefers-color-scheme" in html


def test_hostile_labels_are_escaped(report):
    html = report.html.read_text()
    assert "<script" not in html and "&lt;script&gt;" in html


def test_the_page_says_what_a_reader_needs(report):
    html = report.html.read_text()
    for text in (
        "Deploy",
        "below one rank of 36 modules",
        "loss of lane 3 is not finite at step 17",
        "not distinguishable at 82,944 with 2 seeds",
        "How to read the intervals",
        "growth_threshold",
        "2.13.0",
    ):
        assert text in html
    assert html.count('class="chosen"') == 1


def test_the_page_says_what_the_data_show_and_what_was_tuned(report):
    html = report.html.read_text()
    summary = re.search(r"<h2>What the test data show.*?</ul>", html, re.DOTALL)[0]
    assert "comparisons (equal budgets, and areas under the curves)" in summary
    assert "rest on one seed, which speaks of two trained models" in summary
    ranks = re.search(r"<th>rank</th>.*?</table>", html, re.DOTALL)[0]
    assert re.findall(r"<th>((?:at|by) [^<]*)</th>", ranks) == [
        "at 10,368",
        "at 41,472",
        "at 82,944",
        "at 165,888",
        "by area",
    ]
    assert "<tr><td>adapad</td><td>1–2</td>" in ranks
    tuned = re.search(r"<h2>What was tuned</h2>.*?</table>", html, re.DOTALL)[0]
    rows = re.findall(r"<code>learning_rate</code> ([0-9.]+)</span> </td><td>[0-9.]+</td><td>(●?)</td>", tuned)
    assert rows == [("0.002", "●"), ("0.005", "")]


def test_the_page_says_what_a_deployed_model_costs(report):
    html = report.html.read_text()
    assert "<th>on disk</th>" in html and "<td>400 MB</td><td>2B</td>" in html.replace("2 B", "2B")


def test_idle_time_is_shown_where_cells_had_several_workers(tmp_path):
    factory = SweepFactory(tmp_path / "sweep", items=50)
    for seed in range(2):
        result = factory.cell("adapad", 41_472, seed, 0.7)
        costs = tuple(
            WorkerCost(rank=rank, compute_seconds=6, wait_seconds=3 * rank, exchange_seconds=1) for rank in range(2)
        )
        cost = result.cost.model_copy(update={"workers": 2, "per_worker": costs})
        path = factory.folder / "cells" / result.id / "result.json"
        path.write_text(result.model_copy(update={"cost": cost}).model_dump_json())
    html = build_report(factory.folder, title="t", draws=50).html.read_text()
    rows = re.findall(r"<tr><td>adapad</td><td>(\d of 2)</td>(.*?)</tr>", html)
    assert [(worker, re.findall(r"<td>([^<]*)</td>", cells)[:5]) for worker, cells in rows] == [
        ("0 of 2", ["2", "12", "2", "0", "0.0 %"]),
        ("1 of 2", ["2", "12", "2", "6", "30.0 %"]),
    ]


def test_building_again_changes_nothing(report, folder):
    before = {path: path.read_bytes() for path in report.files if path.suffix != ".html"}
    again = build_report(folder, title=f"title {HOSTILE}", draws=200)
    assert before == {path: path.read_bytes() for path in again.files if path.suffix != ".html"}


def test_an_mlflow_address_is_a_link(folder, tmp_path):
    factory = SweepFactory(tmp_path / "sweep", items=50)
    factory.cell("lora", 41_472, 0, 0.7)
    report = build_report(factory.folder, title="t", mlflow_url="http://localhost:5000/#/compare-runs?x=[1]", draws=50)
    assert '<a href="http://localhost:5000/#/compare-runs?x=[1]">' in report.html.read_text()
    assert "javascript:" not in build_report(
        factory.folder, title="t", mlflow_url="javascript:alert(1)", draws=50
    ).html.read_text().replace("<code>javascript:alert(1)</code>", "")
