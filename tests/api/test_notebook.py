"""The notebook of the documentation runs from top to bottom, and shows what it says."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "quickstart.ipynb"


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Executes the code of a cell as a notebook does; returns the value of its last line, if it is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)  # noqa: S307 - our own notebook


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """The first line of each cell of code → what the cell shows."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, Any] = {"__name__": "__main__"}
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return {source.partition("\n")[0]: run_cell(source, names) for source in sources} | {"names": names}


def test_the_adapter_has_the_size_that_was_asked_for(shown):
    run = shown["names"]["run"]
    assert 9_000 < run.parameters <= 10_000 and shown["run.ranks"] == run.ranks
    assert "<table" in run._repr_html_()


def test_predictions_are_classes_before_and_after_saving(shown):
    before = shown['run.predict(["A quiet, moving film.", "Two hours that I will not get back."])']
    after = shown['ar.predict(folder, ["A quiet, moving film."], max_length=32)']
    assert set(before) <= {"fresh", "rotten"} and after == before[:1]
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(shown["import tempfile"])


def test_a_model_of_ones_own_learns_which_words_are_good(shown):
    assert shown['own.predict(["a great story", "an awful film"])'] == ["up", "down"]


def test_the_loop_spends_its_budget_and_the_plan_lists_the_gap(shown):
    assert shown["names"]["attached"].parameters_deployed <= 41_472
    (plan,) = [value for line, value in shown.items() if line.startswith("spec = ")]
    assert plan.gaps[["label", "budget"]].to_numpy().tolist() == [["lora", 10_400]]


def test_the_notebook_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
