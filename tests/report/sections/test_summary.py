"""The top of the page: the recommendation, also as JSON, and the way to MLflow."""

import json

import pytest

from adapad_ray.report.inputs import ReportInputs
from adapad_ray.report.page import build_report
from adapad_ray.report.sections.summary import Summary
from tests.report.factory import SweepFactory


@pytest.fixture
def folder(tmp_path):
    factory = SweepFactory(tmp_path / "sweep", items=50)
    factory.cell("lora", 41_472, 0, 0.7)
    factory.cell("lora", 82_944, 0, 0.7)
    return factory.folder


def page(folder, mlflow_url):
    report = build_report(folder, ReportInputs(title="t", mlflow_url=mlflow_url, draws=50), [Summary])
    return report.files["report.html"].read_text()


def test_the_recommendation_is_written_as_json(folder):
    report = build_report(folder, ReportInputs(title="t", draws=50))
    written = json.loads(report.files["recommendation.json"].read_text())
    assert written["delta"] == 0.01 and written["confidence"] == 0.95 and written["best"]["label"] == "lora"


def test_an_mlflow_address_is_a_link(folder):
    html = page(folder, "http://localhost:5000/#/compare-runs?x=[1]")
    assert '<a href="http://localhost:5000/#/compare-runs?x=[1]">' in html


def test_another_scheme_is_shown_and_not_linked(folder):
    html = page(folder, "javascript:alert(1)")
    assert "<code>javascript:alert(1)</code>" in html
    assert "javascript:" not in html.replace("<code>javascript:alert(1)</code>", "")
