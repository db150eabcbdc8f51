"""Every file in `sweeps/` can be planned without a network and without weights, with the counts that papers publish."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adapad_ray.cli import app

SWEEPS = sorted((Path(__file__).parents[2] / "sweeps").glob("*.yaml"))
LONG = {"ard_llama70b", "ard_paligemma", "para_gemma_math", "adapad_squad_qwen3"}
"""Models of many layers, whose plans take ten seconds and more."""

DEBERTA, QWEN, OPT, CP = 165_888, 630_784, 196_608, 9_264
"""Parameters of one rank on all linears of DeBERTaV3-base and Qwen3-0.6B, of one on OPT-1.3B's q and v, and of one CP
component there: as in the sheets of 2303.10512 and 2606.00428, and as other tools print them."""


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No hub, no weights, and nothing is timed: whatever is planned is counted."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("adapad_ray.cost.throughput.LARGEST_MEASURED", 0)


def plan(file, *overrides):
    """What `adapad plan --json` prints."""
    result = CliRunner().invoke(app, ["plan", str(file), *overrides, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def named(name):
    return next(file for file in SWEEPS if file.stem == name)


def parameters(planned, label):
    return [row["parameters"] for row in planned["rows"] if row["label"] == label]


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, id=file.stem, marks=[pytest.mark.soak] if file.stem in LONG else []) for file in SWEEPS],
)
def test_every_sweep_can_be_planned(file):
    planned = plan(file)
    assert planned["name"] == file.stem
    assert planned["rows"] and all(row["parameters"] <= (row["budget"] or 10**12) for row in planned["rows"])
    assert not planned["throughput"]["measured"]


def test_adapad_on_deberta_has_the_budget_of_the_paper():
    """0.33M at a mean rank of 2, as AdaLoRA's table prints it; AdaPaD's prints 0.34M. Growth is bounded by rank 4."""
    planned = plan(named("adapad_glue_debertav3"))
    assert planned["backbone_parameters"] == 183_831_552
    assert parameters(planned, "lora") == [2 * DEBERTA, 3 * DEBERTA, 4 * DEBERTA]
    assert 2 * DEBERTA in parameters(planned, "adapad")
    (row,) = [row for row in planned["rows"] if row["label"] == "adapad" and row["budget"] == 2 * DEBERTA]
    assert row["lanes"] == 4 + 1, "four lanes at rank 4, and the reserve's"


def test_cp_on_opt_has_the_grid_and_the_matched_pairs_of_the_paper():
    planned = plan(named("cp_opt1.3b"))
    grid = [1, 2, 4, 8, 16, 21, 28, 36, 43, 64, 85, 128, 171]
    assert parameters(planned, "cp") == [CP * c for c in grid]
    assert parameters(planned, "lora") == [OPT * r for r in (1, 2, 3, 4, 6, 8)]
    pairs = {row["budget"]: row["parameters"] for row in planned["rows"] if row["label"] == "lora"}
    matched = [
        (row["parameters"] // CP, pairs[row["budget"]] // OPT)
        for row in planned["rows"]
        if row["label"] == "cp" and row["budget"] in pairs
    ]
    assert matched == [(21, 1), (43, 2), (64, 3), (85, 4), (128, 6), (171, 8)]
    assert planned["cells"] == {"tune": 0, "curve": 3 * (13 + 6 + 1)}
    assert {row["steps"] for row in planned["rows"]} == {5_000}
    assert planned["examples"] == {"train": 1_000, "validation": 500, "test": 872}, "SST-2 has 872 labelled examples"


@pytest.mark.parametrize("task", ["rte", "stsb", pytest.param("mnli", marks=pytest.mark.soak)])
def test_the_sweep_of_glue_serves_its_other_tasks_by_an_override(task):
    planned = plan(named("adapad_glue_debertav3"), f"task={task}", "training.max_length=128")
    assert 2 * DEBERTA in parameters(planned, "lora")


def test_para_on_roberta_keeps_a_quarter_of_rank_16():
    planned = plan(named("para_glue_roberta"))
    assert planned["backbone_parameters"] == 124_055_040
    assert parameters(planned, "lora/r4") == [4 * DEBERTA] and parameters(planned, "lora/r16") == [16 * DEBERTA]
    assert max(parameters(planned, "para/uniform")) <= 8 * DEBERTA
    assert planned["parents"]["trained"] == 3, "one parent a seed for all budgets and cuts"


def test_the_plan_says_what_it_was_counted_from():
    result = CliRunner().invoke(app, ["plan", str(named("cp_opt1.3b"))])
    text = " ".join(result.output.split())
    assert "no weights were read" in text
    assert (
        "The configuration of facebook/opt-1.3b cannot be reached: the copy that comes with adapad-ray was used" in text
    )
