"""The section on cells from different hardware."""

import re

from adapad_ray.report.inputs import ReportInputs
from adapad_ray.report.page import build_report
from tests.report.factory import SweepFactory


def page(folder):
    return build_report(folder, ReportInputs(title="t", draws=50)).files["report.html"].read_text()


def ran_on(factory, result, accelerator):
    path = factory.folder / "cells" / result.id / "result.json"
    path.write_text(result.model_copy(update={"versions": {"accelerator": accelerator}}).model_dump_json())


def test_cells_of_a_curve_on_two_kinds_of_hardware_are_marked(tmp_path):
    factory = SweepFactory(tmp_path, items=50)
    for label, accelerator in (("lora", "NVIDIA H200"), ("lora/qv", "NVIDIA H200"), ("adapad", "x86_64")):
        for seed in range(2):
            ran_on(factory, factory.cell(label, 41_472, seed, 0.8), accelerator)
    html = page(tmp_path)
    rows = re.findall(r'<tr><td>([^<]*)</td><td class="text">(NVIDIA H200|x86_64)</td><td>(\d)</td></tr>', html)
    assert rows == [("adapad", "x86_64", "2"), ("lora", "NVIDIA H200", "2"), ("lora/qv", "NVIDIA H200", "2")]
    assert "agree up to rounding and not bitwise" in html


def test_one_kind_of_hardware_is_not_mentioned(tmp_path):
    factory = SweepFactory(tmp_path, items=50)
    for seed in range(2):
        ran_on(factory, factory.cell("lora", 41_472, seed, 0.8), "x86_64")
    assert "Different hardware" not in page(tmp_path)
