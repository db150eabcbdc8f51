"""`adapad plan`: estimated times by number of workers."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from adapad_ray.cli import app
from adapad_ray.cost.worker_scaling import WORKERS
from adapad_ray.testing import COST_PER_RANK


@pytest.fixture
def spec_file(tmp_path, tiny_model, reviews):
    content = {
        "name": "planned",
        "model": str(tiny_model),
        "task": {"train": str(reviews), "text": "review", "label": "stars"},
        "methods": {"lora": {}, "adapad": {"initial_rank": 2, "r_max": 2}, "adapad/grown": {"initial_rank": 0}},
        "budgets": [2 * COST_PER_RANK],
        "training": {"max_length": 32},
    }
    path = tmp_path / "planned.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def plan(*arguments):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)], env={"COLUMNS": "200"})


def test_json_has_times_for_every_cell_whose_lanes_workers_can_share(spec_file):
    planned = json.loads(plan(spec_file, "--json", "--link-gbps", 1).output)
    assert planned["throughput"]["measured"] and planned["link_gbps"] == 1
    rows = {row["label"]: row for row in planned["rows"]}
    assert {label for label, row in rows.items() if row["workers"]} == {"adapad", "adapad/grown"}
    for row in (rows["adapad"], rows["adapad/grown"]):
        assert [time["workers"] for time in row["workers"]] == list(WORKERS)
        assert row["workers"][0]["seconds"] == pytest.approx(row["train_seconds"])
    assert rows["adapad"]["passes"] == 2
    assert 1 < rows["adapad/grown"]["passes"] < rows["adapad/grown"]["lanes"]
    times = [rows["adapad"]["train_seconds"], rows["lora"]["train_seconds"]]
    assert times[0] == pytest.approx(2 * times[1])


def test_the_table_has_a_column_for_each_number_of_workers_and_names_the_measured_rate(spec_file):
    output = plan(spec_file).output
    assert all(f"W = {count}" in output for count in WORKERS)
    assert "of training passes of this model" in output and "10 Gbit/s" in output


def test_a_link_rate_of_zero_is_rejected(spec_file):
    result = plan(spec_file, "--link-gbps", 0)
    assert result.exit_code == 2 and "--link-gbps is 0" in result.output
