"""Rows per split and class: counts, where splits come from, and warnings."""

from adapad_ray.report.page import build_report
from adapad_ray.report.sections.data import Data
from adapad_ray.sweep.manifest import Manifest
from adapad_ray.tasks import SplitSize
from tests.report.factory import SweepFactory

SPLITS = {
    "train": SplitSize(100, {"01": 60, "<b>": 40}, available=1_200),
    "validation": SplitSize(200, {f"class {i}": 3 + i for i in range(12)}, available=200, carved=True),
    "test": SplitSize(7),
}


def page(folder, **recorded):
    SweepFactory(folder, items=50).cell("lora", 41_472, 0, 0.7)
    Manifest("t", None, [], [], 0.01, "", **recorded).save(folder)
    report = build_report(folder, Manifest.load(folder).report_inputs(), [Data])
    return report.files["report.html"].read_text()


def test_every_split_has_its_rows_classes_and_origin(tmp_path):
    html = page(tmp_path, splits=SPLITS, warnings=["class rare (1 row) stays"])
    assert Manifest.load(tmp_path).splits == SPLITS
    assert "100 of 1,200</td>" in html and "01 60, &lt;b&gt; 40</td>" in html and "given</td>" in html
    assert "12 classes of 3 to 14 rows</td>" in html and "carved from the training data</td>" in html
    assert "<li>class rare (1 row) stays</li>" in html


def test_a_sweep_that_recorded_none_has_no_such_section(tmp_path):
    assert "rows per class" not in page(tmp_path)
