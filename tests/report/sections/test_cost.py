"""The section on costs: of a deployed model, of all cells, and of each worker."""

import re

from adapad_ray.report.inputs import ReportInputs
from adapad_ray.report.page import build_report
from adapad_ray.results import WorkerCost
from tests.report.factory import SweepFactory


def page(folder):
    return build_report(folder, ReportInputs(title="t", draws=50)).files["report.html"].read_text()


def test_a_deployed_model_has_memory_and_size_on_disk(tmp_path):
    factory = SweepFactory(tmp_path, items=50)
    factory.cell("lora", 41_472, 0, 0.8, adapter=True)
    html = page(tmp_path)
    assert "<th>on disk</th>" in html and "<td>400 MB</td><td>2 B</td>" in html


def test_idle_time_is_shown_where_cells_had_several_workers(tmp_path):
    factory = SweepFactory(tmp_path / "sweep", items=50)
    for seed in range(2):
        result = factory.cell("adapad", 41_472, seed, 0.7)
        costs = tuple(
            WorkerCost(rank=rank, compute_seconds=6, wait_seconds=3 * rank, exchange_seconds=1) for rank in range(2)
        )
        cost = result.cost.model_copy(update={"workers": 2, "per_worker": costs})
        path = factory.folder / "cells" / result.id / "result.json"
        path.write_text(result.model_copy(update={"cost": cost}).model_dump_json())
    html = page(factory.folder)
    rows = re.findall(r"<tr><td>adapad</td><td>(\d of 2)</td>(.*?)</tr>", html)
    assert [(worker, re.findall(r"<td>([^<]*)</td>", cells)[:5]) for worker, cells in rows] == [
        ("0 of 2", ["2", "12", "2", "0", "0.0 %"]),
        ("1 of 2", ["2", "12", "2", "6", "30.0 %"]),
    ]


def test_training_that_cells_share_is_counted_once(tmp_path):
    factory = SweepFactory(tmp_path, items=50)
    parent = factory.cell("para", None, 0, 0.8, stage="parent")
    for budget in (41_472, 82_944):
        result = factory.cell("para", budget, 0, 0.8)
        identity = result.identity.model_copy(update={"parent": parent.id})
        path = factory.folder / "cells" / result.id / "result.json"
        path.write_text(result.model_copy(update={"identity": identity}).model_dump_json())
    html = page(tmp_path)
    rows = re.findall(r'<tr><td>para</td><td class="text">(curve|parent)</td>(.*?)</tr>', html)
    seconds = {stage: re.findall(r"<td>([^<]*)</td>", cells)[2] for stage, cells in rows}
    assert seconds == {"curve": "0", "parent": "20"}
