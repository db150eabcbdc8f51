"""The section on the convergence of components: there if cells recorded errors, else absent."""

import pandas as pd
import pytest

from adapad_ray.report.inputs import ReportInputs
from adapad_ray.report.page import build_report
from tests.report.convergence_cells import ADAPAD, BUDGET, ConvergenceCells, curve

INPUTS = ReportInputs(title="t", draws=50)


@pytest.fixture
def cells(tmp_path):
    return ConvergenceCells(tmp_path / "sweep")


def test_the_report_has_figure_table_and_csv_if_cells_recorded_errors(cells):
    for seed in (0, 1):
        cells.add("adapad/a", [curve(0.5, 40), curve(0.6, 40)], seed=seed, config=ADAPAD)
        cells.add("sequential", [curve(0.5, 80), curve(0.5, 40)], seed=seed, config={"more_first": 0.0})
        cells.factory.cell("lora", BUDGET, seed, 0.8)  # recorded no errors
    report = build_report(cells.folder, INPUTS)
    assert {"convergence.csv", "convergence.png", "convergence.svg"} <= set(report.files)
    assert pd.read_csv(report.files["convergence.csv"])["label"].tolist() == ["adapad/a"] * 2 + ["sequential"] * 2
    html = report.files["report.html"].read_text()
    assert "How single components converge" in html and "Error of every component against rounds" in html
    before = report.files["convergence.svg"].read_bytes()
    assert build_report(cells.folder, INPUTS).files["convergence.svg"].read_bytes() == before


@pytest.mark.filterwarnings("error::RuntimeWarning")  # of a curve with one point
def test_other_sweeps_have_no_such_section(cells):
    cells.factory.cell("lora", BUDGET, 0, 0.8)
    report = build_report(cells.folder, INPUTS)
    assert "convergence.svg" not in report.files
    assert "single components" not in report.files["report.html"].read_text()
    assert not list(cells.folder.glob("convergence*"))
