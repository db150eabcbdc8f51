"""The page needs no network, escapes what users wrote, and names what is missing."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files as resources

import pandas as pd
import pytest

from adapad_ray.report.inputs import FailedCell, Gap, ReportInputs
from adapad_ray.report.page import build_report
from adapad_ray.report.section import Section
from adapad_ray.report.style.blocks import Paragraph
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
    inputs = ReportInputs(
        title=f"title {HOSTILE}",
        mlflow_url="mlflow ui --backend-store-uri sqlite:///mlflow.db",
        gaps=[Gap("lora", 10_368, f"below one rank of 36 modules {HOSTILE}")],
        failed=[FailedCell("adapad", 41_472, 2, "loss of lane 3 is not finite at step 17")],
        draws=200,
    )
    return build_report(folder, inputs)


@pytest.fixture(scope="module")
def html(report):
    return report.files["report.html"].read_text()


def test_every_file_is_written(report, folder):
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
    } <= set(report.files)
    assert all(path.stat().st_size > 0 for path in report.files.values())
    assert len(pd.read_csv(report.files["curve.csv"])) > 11
    assert json.loads(report.files["recommendation.json"].read_text())["sentence"] == report.recommendation.sentence
    assert not list(folder.glob(".*"))


def test_the_page_needs_no_network(html):
    elements = Elements(html)
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in elements.addresses)
    assert not {"link", "img", "iframe", "object"} & set(elements.tags)
    vega = (resources("adapad_ray.report") / "web" / "vega.min.js").read_text()
    assert not re.search(r"https?://|@import|url\((?!#)", html.replace(vega, ""))
    assert "prefers-color-scheme" in html


def test_the_policy_of_the_page_allows_its_own_two_scripts_and_no_request(html):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1].replace("&#39;", "'")
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(digests) == 2 and all(f"'sha256-{digest}'" in policy for digest in digests)
    assert policy.count("sha256-") == 2 and "default-src 'none'" in policy and "connect-src" not in policy


def test_hostile_labels_are_escaped(html):
    assert re.findall(r"<script[^>]*>", html) == ['<script type="application/json">'] * 4 + ["<script>"] * 2
    assert "alert(&#34;" in html and r"\u003cscript\u003ealert(" in html


def test_the_data_of_the_curve_are_those_of_its_file_and_table(html, report):
    (content,) = re.findall(r'<figure class="plot" id="curve">.*?json">(.*?)</script>', html, re.DOTALL)
    drawn = pd.DataFrame(json.loads(content)["data"]["points"])
    written = pd.read_csv(report.files["curve.csv"])
    names = [name for name in written if name in drawn]
    assert set(written) == set(names)
    pd.testing.assert_frame_equal(drawn[names], written, check_dtype=False, rtol=1e-5)
    table = re.search(r"<h2>The curve</h2>.*?<tbody>(.*?)</tbody>", html, re.DOTALL)[1]
    shown = [re.findall(r"<td[^>]*>(.*?)</td>", row)[3] for row in table.strip().splitlines()]
    assert shown == [f"{value:.3f}" for value in written["test_mean"]]


def test_the_page_has_what_a_reader_needs(html):
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


def test_the_page_shows_conclusions_ranks_and_trials(html):
    summary = re.search(r"<h2>What the test data show.*?</ul>", html, re.DOTALL)[0]
    assert "comparisons (equal budgets, and areas under the curves)" in summary
    assert "have one seed each and compare two trained models, not two methods" in summary
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
    rows = re.findall(
        r"<code>learning_rate</code> ([0-9.]+)</span> </td><td>–</td><td>[0-9.]+</td><td>(●?)</td>", tuned
    )
    assert rows == [("0.002", "●"), ("0.005", "")]


def test_building_again_changes_nothing(report, folder):
    before = {path: path.read_bytes() for path in report.files.values() if path.suffix != ".html"}
    again = build_report(folder, ReportInputs(title=f"title {HOSTILE}", draws=200))
    assert before == {path: path.read_bytes() for path in again.files.values() if path.suffix != ".html"}


class Text(Section):
    """The smallest section."""

    heading = "Mine <b>"

    @classmethod
    def compute(cls, sweep):
        return cls()

    def files(self):
        return {"mine.txt": "content"}

    def words(self):
        yield Paragraph("a < b")


class Absent(Text):
    heading = "Absent"

    @classmethod
    def compute(cls, sweep):
        return None


def test_the_page_has_the_listed_sections_in_order_and_leaves_out_those_without_data(tmp_path):
    factory = SweepFactory(tmp_path, items=50)
    factory.cell("lora", 41_472, 0, 0.7)
    report = build_report(tmp_path, ReportInputs(title="t", draws=50), [Text, Absent, Text])
    html = report.files["report.html"].read_text()
    assert html.count("<h2>Mine &lt;b&gt;</h2>\n<p>a &lt; b</p>") == 2 and "Absent" not in html
    assert report.files["mine.txt"].read_text() == "content" and set(report.files) == {"mine.txt", "report.html"}
