"""Untrusted folders: models with code, and results with paths outside their folder."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from bounded import bounded_memory, check_one_line
from pydantic import ValidationError
from safetensors.torch import load_file
from test_hostile_adapters import CANARY, Program

from adapad_ray.errors import BadRequestError
from adapad_ray.models import load_backbone
from adapad_ray.results import CellResult, Point
from adapad_ray.storage import WorkingFolder
from adapad_ray.sweep.folder import locked_folder
from adapad_ray.sweep.spec_file import parse_spec

POINT: dict[str, Any] = {
    "kind": "final", "parameters": 1, "head_parameters": 0, "ranks": {}, "validation": {"accuracy": 1.0},
}  # fmt: skip


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the model that a test can change, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def test_code_in_a_models_folder_is_not_run(model, tmp_path):
    config = json.loads((model / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "custom.Config", "AutoModel": "custom.Model"}
    (model / "config.json").write_text(json.dumps(config))
    (model / "custom.py").write_text(f"open({CANARY!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    try:
        load_backbone(str(model), 2, pooling="mean")
    except BadRequestError as error:
        check_one_line(error)
    assert not list(tmp_path.rglob(CANARY))


def test_pickled_weights_of_a_model_are_not_opened(model, tmp_path):
    torch.save(load_file(model / "model.safetensors") | {"x": Program()}, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    with pytest.raises(BadRequestError) as caught:
        load_backbone(str(model), 2, pooling="mean")
    check_one_line(caught.value)
    assert not list(tmp_path.rglob(CANARY))


@pytest.mark.parametrize(
    "content", [pickle.dumps(Program()), b"\0" * 100, b"", b"\xff" * 8], ids=["pickle", "zeros", "empty", "not-utf-8"]
)
def test_weights_of_a_model_that_are_not_safetensors(content, model, tmp_path):
    (model / "model.safetensors").write_bytes(content)
    with bounded_memory(), pytest.raises(BadRequestError) as caught:
        load_backbone(str(model), 2, pooling="mean")
    check_one_line(caught.value)
    assert not list(tmp_path.rglob(CANARY))


@pytest.mark.parametrize("adapter", ["../../../../etc", "/etc", "a/../../b", ".."])
def test_a_record_cannot_name_an_adapter_outside_its_cell(adapter):
    assert Point(**POINT, adapter="adapter").adapter == "adapter"
    with pytest.raises(ValidationError, match="inside the cell's"):
        Point(**POINT, adapter=adapter)


@pytest.mark.parametrize("cell", ["../other", "/etc", "..", "", "a/b"])
def test_a_record_cannot_be_of_a_cell_outside_the_sweep(cell):
    with pytest.raises(ValidationError) as caught:
        CellResult.model_validate({"id": cell})
    assert ("id",) in [problem["loc"] for problem in caught.value.errors()]


def test_a_recorded_spec_with_an_alias_bomb_is_rejected(tmp_path):
    """The error message that rejects the folder quotes values of the spec."""
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)), "model: *a9"]
    (tmp_path / "spec.yaml").write_text("\n".join(lines))
    mine = parse_spec({"name": "mine", "model": "m", "task": "t", "methods": {"lora": {}}, "budgets": [1]})
    folder = WorkingFolder(str(tmp_path), tmp_path)
    with bounded_memory(), pytest.raises(BadRequestError) as caught, locked_folder(folder, mine):
        pass
    check_one_line(caught.value)


def test_a_recorded_spec_is_read_back(tmp_path):
    mine = parse_spec({"name": "mine", "model": "m", "task": "t", "methods": {"lora": {}}, "budgets": [1]})
    for _ in range(2):
        with locked_folder(WorkingFolder(str(tmp_path), tmp_path), mine):
            assert yaml.safe_load((tmp_path / "spec.yaml").read_text())["model"] == "m"
