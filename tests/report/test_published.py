"""Published points: parsed from the sweep's file, filtered by task and metric, and kept in the manifest."""

import pytest
from pydantic import ValidationError

from adapad_ray.errors import BadRequestError
from adapad_ray.report.page import build_report
from adapad_ray.report.published import PublishedPoint, comparable, of_task
from adapad_ray.sweep.manifest import Manifest
from adapad_ray.sweep.spec_file import parse_spec
from tests.report.factory import SweepFactory

TABLE = "2605.10741, Table I"
POINTS = [
    PublishedPoint(label="adapad", parameters="0.34M", value=0.87, source=TABLE),
    PublishedPoint(label="adapad", parameters="0.34M", value=0.7226, task="cola", source=TABLE),
    PublishedPoint(label="para", value=0.86, source="2604.27796, Table 2"),
    PublishedPoint(
        label="lora", parameters=663_552, value=0.82, metric="matthews_corrcoef", source="2604.27796, Table 2"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    factory = SweepFactory(tmp_path_factory.mktemp("runs") / "sweep")
    factory.sweep(seeds=2)
    return factory.folder


def test_parameters_are_parsed_as_papers_print_them():
    printed = {"0.34M": 340_000, "1.27M": 1_270_000, "9264": 9_264, "41.5k": 41_500, 196_608: 196_608}
    for count, expected in printed.items():
        assert PublishedPoint(label="a", parameters=count, value=0.5, source=TABLE).parameters == expected
    with pytest.raises(ValidationError):
        PublishedPoint(label="a", parameters="144 ranks", value=0.5, source=TABLE)


def test_points_are_filtered_by_task_and_by_metric():
    assert of_task(POINTS, "rte") == [POINTS[0], POINTS[2], POINTS[3]]
    assert of_task(POINTS, "cola") == POINTS
    assert comparable(POINTS, "accuracy") == POINTS[:2]
    assert comparable(POINTS, "matthews_corrcoef") == [POINTS[0], POINTS[1], POINTS[3]]


def test_published_points_reach_a_rebuilt_report(folder):
    Manifest("t", None, [], [], 0.01, "", published=POINTS).save(folder)
    report = build_report(folder, Manifest.load(folder).report_inputs())
    assert "2604.27796, Table 2" in report.files["report.html"].read_text()


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"label": "adapad", "value": 0.7}, "published.0.source is missing"),
        ({"label": "adapad", "value": 0.7, "source": TABLE, "sorce": ""}, "did you mean source"),
        ({"label": "adapad", "value": "high", "source": TABLE}, "published.0.value is 'high'"),
        ({"label": "adapad", "value": 0.7, "source": TABLE, "parameters": "2 ranks"}, "published.0.parameters"),
    ],
)
def test_a_point_without_source_or_with_a_typing_error_is_rejected(point, message):
    content = {"model": "minilm-l6", "task": "cola", "methods": {"lora": {}}, "budgets": [9216], "published": [point]}
    with pytest.raises(BadRequestError, match=message):
        parse_spec(content)
