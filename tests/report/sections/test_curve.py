"""The curve's figure: the same bytes twice, references that do not stretch the axis, published points."""

import pytest
from matplotlib import rc_context

from adapad_ray.report.curves import Curves
from adapad_ray.report.inputs import ReportInputs
from adapad_ray.report.published import PublishedPoint
from adapad_ray.report.recommendation import recommend
from adapad_ray.report.records import load_results
from adapad_ray.report.sections.curve import Curve, curve_figure
from adapad_ray.report.style.drawing import STYLE, save_figure
from adapad_ray.report.sweep_results import SweepResults
from tests.report.factory import SweepFactory


@pytest.fixture
def factory(tmp_path):
    return SweepFactory(tmp_path / "sweep")


def curves(factory):
    return Curves(load_results(factory.folder), factory.folder, draws=50)


def test_the_curve_is_drawn_the_same_way_twice(factory, tmp_path):
    factory.sweep(seeds=2)
    sweep = SweepResults(factory.folder, ReportInputs(title="a & b <c>", delta=0.05, draws=100))
    files = []
    for index in range(2):
        with rc_context(STYLE):
            (chart,) = Curve.compute(sweep).figures()
        files.append(save_figure(chart.figure, tmp_path / f"curve{index}"))
    assert files[0][1].read_bytes() == files[1][1].read_bytes()
    assert files[0][0].read_bytes()[:4] == b"\x89PNG"
    assert not list(tmp_path.glob(".*"))


def test_full_fine_tuning_is_a_line_and_does_not_stretch_the_axis(factory):
    for seed in range(2):
        factory.cell("full", None, seed, 0.9, parameters=22_713_216, ranks={})
        factory.cell("lora", 41_472, seed, 0.8)
        factory.cell("lora", 82_944, seed, 0.85)
    found = curves(factory)
    table = found.table()
    assert set(table[table["label"] == "full"]["parameters"]) == {22_713_216}
    (axes,) = curve_figure(Curve(table, "accuracy", recommendation=recommend(found))).axes
    assert axes.get_xlim()[1] < 1e6
    assert "full (22.7M parameters)" in {text.get_text() for text in axes.texts}


def test_a_published_point_is_a_hollow_diamond_in_view(factory):
    factory.sweep(seeds=2)
    point = PublishedPoint(label="adapad", parameters="0.34M", value=0.87, source="2605.10741, Table I")
    (axes,) = curve_figure(Curve(curves(factory).table(), "accuracy", published=[point])).axes
    (diamond,) = [line for line in axes.lines if line.get_marker() == "D" and len(line.get_xdata()) == 1]
    assert (diamond.get_xdata()[0], diamond.get_ydata()[0]) == (340_000, 0.87)
    assert diamond.get_markerfacecolor() == "white"
    low, high = axes.get_xlim()
    assert low < 340_000 < high
    assert "diamonds: published" in axes.get_title("left")


def test_a_sweep_without_adapters_shows_the_frozen_backbone_alone(factory, tmp_path):
    factory.cell("head_only", None, 0, 0.7)
    table = curves(factory).table()
    figure = curve_figure(Curve(table, "accuracy"))
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["frozen backbone, head only"]
    (line,) = axes.lines
    assert set(line.get_ydata()) == {table["test_mean"].item()}
    assert all(path.stat().st_size > 1000 for path in save_figure(figure, tmp_path / "curve"))
