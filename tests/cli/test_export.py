"""`adapad export`: copies the adapter of a finished cell, or reports in one line what the sweep has instead."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from adapad_ray.budget import BudgetUnits
from adapad_ray.cli import app
from adapad_ray.report.style.formatting import short_count
from adapad_ray.sweep.manifest import Manifest
from adapad_ray.testing import COST_PER_RANK, MethodCase

BUDGET = 2 * COST_PER_RANK


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """The folder of the only cell of a sweep: a LoRA at one budget."""
    sweep = tmp_path_factory.mktemp("sweep")
    result = MethodCase("lora", BUDGET, {}).run(sweep / "new")
    folder = sweep / "cells" / result.id
    folder.parent.mkdir()
    shutil.move(sweep / "new", folder)
    units = BudgetUnits(backbone_parameters=100 * BUDGET, rank_parameters=COST_PER_RANK / 12)
    Manifest(title="s", labels=None, gaps=[], failed=[], delta=0.01, mlflow="", units=units).save(sweep)
    return folder


def export(cell, to, *, method="lora", budget=BUDGET, options=()):
    """The exit code and the output of the command."""
    arguments = [cell.parents[1], "--method", method, "--budget", budget, "--to", to, *options]
    result = CliRunner().invoke(app, ["export", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.output


@pytest.mark.parametrize(
    "budget", [str(BUDGET), f"{BUDGET:,}", f"{BUDGET / 1000}k", "1%", "24 ranks", short_count(BUDGET)]
)
def test_the_adapter_is_copied(cell, budget, tmp_path):
    code, output = export(cell, tmp_path / "out", budget=budget)
    assert code == 0 and f"{BUDGET:,} adapter parameters on 12 modules, seed 0, validation" in output
    copied, trained = (load_file(path / "adapter_model.safetensors") for path in (tmp_path / "out", cell / "adapter"))
    assert copied.keys() == trained.keys() and all(copied[name].equal(trained[name]) for name in trained)


def test_the_home_folder_is_found_where_the_shell_does_not_write_it_out(cell, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = [str(cell.parents[1]), "--method", "lora", "--budget", str(BUDGET), "--to=~/out"]
    assert CliRunner().invoke(app, ["export", *arguments]).exit_code == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "cp"}, "has no finished cell of 'cp'"),
        ({"budget": 7}, "lora has no finished cell at budget 7"),
        ({"options": ["--prefix", 3]}, f"lora at {BUDGET} has no prefix 3"),
        ({"options": ["--seed", 9]}, f"lora at {BUDGET} has no finished cell of seed 9"),
    ],
    ids=["method", "budget", "prefix", "seed"],
)
def test_what_the_sweep_has_is_listed_where_it_lacks_a_cell(cell, arguments, message, tmp_path):
    code, output = export(cell, tmp_path / "out", **arguments)
    opening, *table = output.splitlines()
    assert code == 2 and opening.startswith("adapad: ") and opening.endswith(f"{message}; it has:")
    assert [line.split() for line in table if line.strip()][2] == ["lora", f"{BUDGET:,}", "–", f"{BUDGET:,}", "0"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [(), ("--method", "lora"), ("--recommended", "--method", "lora")])
def test_an_incomplete_choice_is_one_sentence(cell, arguments, tmp_path):
    result = CliRunner().invoke(app, ["export", str(cell.parents[1]), "--to", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 2 and result.output.count("\n") == 1 and "--recommended" in result.output


def test_a_folder_with_content_is_not_overwritten(cell, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    code, output = export(cell, tmp_path)
    assert code == 2 and "is not an empty folder" in output
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("known", "described", "words"),
    [
        (1, 4, "3 cells of this sweep are not finished: another seed may turn out to be the best"),
        (3, 0, "2 cells of this sweep are not finished: another seed may"),
        (1, 2, "1 cell of this sweep is not finished: another seed may"),
        (1, 1, None),
    ],
)
def test_cells_that_are_missing_are_said(cell, tmp_path, known, described, words):
    """A launch that was interrupted has recorded which cells it knew, and how many there will be."""
    sweep = tmp_path / "sweep"
    shutil.copytree(cell.parents[1], sweep)
    labels = {cell.name: "lora"} | {f"missing{i}": "lora" for i in range(known - 1)}
    Manifest("s", labels, [], [], 0.01, "", cells=described).save(sweep)
    code, output = export(sweep / "cells" / cell.name, tmp_path / "out")
    assert code == 0
    assert (words in output) if words else "not finished" not in output
    code, output = export(sweep / "cells" / cell.name, tmp_path / "one", options=["--seed", 0])
    assert "another seed" not in output and ("not finished" in output) == bool(words)


def test_export_and_predict_import_neither_ray_nor_optuna():
    modules = ["sweep.export", "deployment.completion", "deployment.prediction", "deployment.hub"]
    imports = ", ".join(f"adapad_ray.{module}" for module in modules)
    program = f"import sys, {imports}; print([name for name in ('ray', 'optuna') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
