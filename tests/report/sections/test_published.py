"""Published values are listed on the page, and nothing else changes."""

from adapad_ray.report.inputs import ReportInputs
from adapad_ray.report.page import build_report
from adapad_ray.report.published import PublishedPoint
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


def test_the_page_lists_every_point_of_the_task_and_nothing_else_changes(tmp_path):
    SweepFactory(tmp_path).sweep(seeds=2)
    without = build_report(tmp_path, ReportInputs(title="t", draws=50))
    assert "Published values" not in without.files["report.html"].read_text()
    listed = build_report(tmp_path, ReportInputs(title="t", published=POINTS, draws=50))
    assert without.recommendation == listed.recommendation and without.table.equals(listed.table)
    html = listed.files["report.html"].read_text()
    section = html[html.index("Published values") :]
    section = section[: section.index("</table>")]
    assert section.count("<tr>") == 1 + 3, "the point of another task is left out"
    assert (
        "340,000" in section
        and "0.870" in section
        and "2604.27796, Table 2" in section
        and "matthews_corrcoef" in section
    )
