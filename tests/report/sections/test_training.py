"""The growth of the parameter count, for cells whose ranks grew."""

from adapad_ray.report.inputs import ReportInputs
from adapad_ray.report.sections.training import Training, growth_figure
from adapad_ray.report.sweep_results import SweepResults
from tests.report.factory import RANK_ONE, SweepFactory


def test_a_sweep_without_growth_has_no_such_section(tmp_path):
    SweepFactory(tmp_path).cell("lora", 41_472, 0, 0.8)
    assert Training.compute(SweepResults(tmp_path, ReportInputs(title="t", draws=20))) is None


def test_growth_is_drawn_for_cells_that_grew(tmp_path):
    factory = SweepFactory(tmp_path)
    factory.cell("lora", 41_472, 0, 0.8)
    grown = factory.cell("adapad", 41_472, 0, 0.8)
    section = Training.compute(SweepResults(tmp_path, ReportInputs(title="t", draws=20)))
    assert section.grown == [grown]
    (axes,) = growth_figure(section.grown).axes
    line = axes.lines[0]
    assert list(line.get_xdata()) == [0, 10, 20, 30, 40, 100]
    assert list(line.get_ydata()) == [RANK_ONE * count for count in (1, 2, 3, 4, 5, 5)]
