"""`adapad plan`: estimated times by number of workers."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from adapad_ray.cli import app
from adapad_ray.cost.worker_scaling import WORKERS
from adapad_ray.testing import COST_PER_RANK
from adapad_ray.training.cpus import usable_cpus


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


def test_the_tables_name_the_measured_rate_and_what_the_sweep_will_lack(spec_file, monkeypatch):
    monkeypatch.setattr("adapad_ray.tracking.writers.find_spec", lambda package: None)
    output = plan(spec_file, "tensorboard=true").output
    assert all(f"W = {count}" in output for count in WORKERS)
    assert "of training passes of this model" in output and "10 Gbit/s" in output
    assert "needs the package tensorboard, which is not installed" in " ".join(output.split())


def test_a_plan_whose_timed_steps_diverge_is_still_a_plan(spec_file):
    result = plan(spec_file, "training.learning_rate=1e30")
    assert result.exit_code == 0 and "a matrix product" in result.output
    assert "random weights diverge" in " ".join(result.output.split())


def test_a_link_rate_of_zero_is_rejected(spec_file):
    result = plan(spec_file, "--link-gbps", 0)
    assert result.exit_code == 2 and "--link-gbps is 0" in result.output


def test_rows_per_split_and_class_are_said_and_which_splits_were_carved(spec_file, tmp_path):
    path = tmp_path / "odd.csv"
    rows = [f"text {i},{'[b]yes' if i % 2 else 'no'}" for i in range(100)]
    path.write_text("\n".join(["review,stars", *rows, "odd,rare"]))
    changes = [f"task.train={path}", "task.shares={test: 0.1}", "training.max_test_examples=4"]
    planned = json.loads(plan(spec_file, "--json", *changes).stdout)
    assert planned["splits"]["train"] == {
        "rows": 81,
        "classes": {"[b]yes": 40, "no": 40, "rare": 1},
        "available": 81,
        "carved": False,
    }
    assert planned["splits"]["validation"]["classes"] == {"[b]yes": 5, "no": 5, "rare": 0}
    assert planned["splits"]["test"]["rows"] == 4 and planned["splits"]["test"]["available"] == 10
    assert planned["splits"]["test"]["carved"]
    assert "too few texts to carve from class rare (1 row)" in planned["warnings"][0]
    said = plan(spec_file, *changes).output
    assert (
        "Data: train 81 rows ([b]yes 40, no 40, rare 1); validation 10 rows ([b]yes 5, no 5, rare 0); test 4 of" in said
    )
    assert "validation and test carved from the training data" in " ".join(said.split())


def test_a_share_of_data_that_are_given_is_rejected(spec_file, reviews):
    result = plan(spec_file, f"task.test={reviews}", "task.shares={test: 0.1}")
    assert result.exit_code == 2
    assert "task.shares.test is set, but test data of task" in result.output


def test_the_first_line_says_what_this_machine_takes(spec_file):
    cores = usable_cpus()
    whole = plan(spec_file, f"resources.cpus_per_worker={cores}", "seeds=[0]").output
    assert whole.startswith("This machine: about ") and "one cell at a time" in whole.partition("\n")[0]
    assert plan(spec_file, f"resources.cpus_per_worker={cores + 1}").output.startswith("This machine has no room")
    halves = json.loads(plan(spec_file, f"resources.cpus_per_worker={cores / 2}", "--json").output)
    longest = max(row["train_seconds"] for row in halves["rows"])
    assert halves["here"]["groups"] == 2
    assert halves["here"]["seconds"] == pytest.approx(max(longest, halves["single_worker_seconds"] / 2))
