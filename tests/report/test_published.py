"""Points of papers stand beside ours: quoted, drawn where they have a place on the axes, and never computed with."""

import pytest
from pydantic import ValidationError

from adapad_ray.errors import BadRequestError
from adapad_ray.report.curves import Curves
from adapad_ray.report.figures import curve_figure
from adapad_ray.report.page import build_report
from adapad_ray.report.published import PublishedPoint, comparable, of_task
from adapad_ray.report.records import load_results
from adapad_ray.sweep.manifest import Manifest, rebuild_report
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


def test_parameters_are_read_as_papers_print_them():
    printed = {"0.34M": 340_000, "1.27M": 1_270_000, "9264": 9_264, "41.5k": 41_500, 196_608: 196_608}
    for count, expected in printed.items():
        assert PublishedPoint(label="a", parameters=count, value=0.5, source=TABLE).parameters == expected
    with pytest.raises(ValidationError):
        PublishedPoint(label="a", parameters="144 ranks", value=0.5, source=TABLE)


def test_only_points_of_the_task_are_shown_and_only_like_ones_drawn():
    assert of_task(POINTS, "rte") == [POINTS[0], POINTS[2], POINTS[3]]
    assert of_task(POINTS, "cola") == POINTS
    assert comparable(POINTS, "accuracy") == POINTS[:2]
    assert comparable(POINTS, "matthews_corrcoef") == [POINTS[0], POINTS[1], POINTS[3]]


def test_the_figure_has_a_hollow_diamond_where_the_paper_says(folder):
    table = Curves(load_results(folder), folder, draws=50).table()
    (axes,) = curve_figure(table, published=POINTS[:1]).axes
    (diamond,) = [line for line in axes.lines if line.get_marker() == "D" and len(line.get_xdata()) == 1]
    assert (diamond.get_xdata()[0], diamond.get_ydata()[0]) == (340_000, 0.87)
    assert diamond.get_markerfacecolor() == "white"
    low, high = axes.get_xlim()
    assert low < 340_000 < high
    assert "diamonds: published" in axes.get_title("left")


def test_the_page_lists_every_point_and_nothing_else_changes(folder):
    ours = build_report(folder, title="t", draws=50)
    assert "Published beside it" not in ours.html.read_text()
    theirs = build_report(folder, title="t", published=POINTS, draws=50)
    assert ours.recommendation == theirs.recommendation and ours.table.equals(theirs.table)
    html = theirs.html.read_text()
    section = html[html.index("Published beside it") :]
    section = section[: section.index("</table>")]
    assert section.count("<tr>") == 1 + 3, "the one of another task is left out"
    assert (
        "340,000" in section
        and "0.870" in section
        and "2604.27796, Table 2" in section
        and "matthews_corrcoef" in section
    )


def test_points_of_the_file_reach_a_report_that_is_rebuilt(folder):
    Manifest("t", None, [], [], 0.01, "", published=POINTS).save(folder)
    assert "2604.27796, Table 2" in rebuild_report(folder).html.read_text()


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"label": "adapad", "value": 0.7}, "published.0.source is missing"),
        ({"label": "adapad", "value": 0.7, "source": TABLE, "sorce": ""}, "did you mean source"),
        ({"label": "adapad", "value": "high", "source": TABLE}, "published.0.value is 'high'"),
        ({"label": "adapad", "value": 0.7, "source": TABLE, "parameters": "2 ranks"}, "published.0.parameters"),
    ],
)
def test_a_point_without_source_or_with_a_slip_is_refused(point, message):
    content = {"model": "minilm-l6", "task": "cola", "methods": {"lora": {}}, "budgets": [9216], "published": [point]}
    with pytest.raises(BadRequestError, match=message):
        parse_spec(content)
