"""A cell's identity holds all that its record and its adapter carry, so that nothing stale is reused or exported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from synthetic import SyntheticExecutor

from adapad_ray.errors import BadRequestError
from adapad_ray.results import CellIdentity
from adapad_ray.storage import WorkingFolder
from adapad_ray.sweep import run
from adapad_ray.sweep.export import AdapterChoice, export_adapter
from adapad_ray.sweep.inputs import load_inputs
from adapad_ray.sweep.manifest import Manifest
from adapad_ray.sweep.observers import SweepObserver
from adapad_ray.sweep.planning.cells import NAMES
from adapad_ray.sweep.run import Sweep
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.sweep.spec_file import parse_spec
from adapad_ray.training.cell import CellRequest, Workspace, run_cell

TWO_EACH = 2 * 896
"""Parameters of two components on each of the tiny model's 12 linear layers."""


class LocalExecutor(SyntheticExecutor):
    """Trains cells in this process."""

    def __init__(self, spec: SweepSpec) -> None:
        super().__init__()
        loaded = load_inputs(spec)
        self._workspace = Workspace(loaded.recipe.load(), loaded.inputs.data)

    def _run(self, cell_id, job, on_event) -> None:
        super()._run(cell_id, job, on_event)
        (Path(job["folder"]) / "result.json").unlink()
        request = CellRequest(cell_id, self.computed[-1], Path(job["folder"]), job["base_model"])
        run_cell(request, self._workspace)


@dataclass
class Finished:
    """A finished sweep."""

    folder: Path
    computed: int
    """Cells that the launch computed."""

    def export(self, to: Path) -> Any:
        """`adapad.json` of the exported adapter."""
        export_adapter(self.folder, to, AdapterChoice("adapad", str(TWO_EACH)))
        return json.loads((to / "adapad.json").read_text())


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def launch(tiny_model, reviews, tmp_path_factory, monkeypatch_module):
    """Launches a sweep of one cell over reviews whose classes have these names, always in the same folder."""

    class NoTracker:
        comparison_url, how_to_look = "", {}

        def log_progress(self, *arguments) -> None: ...
        def log_cell(self, *arguments) -> None: ...
        def write_page(self, *arguments) -> None: ...
        def close(self, *arguments) -> None: ...

    monkeypatch_module.setattr(run.Tracker, "open", lambda *arguments: NoTracker())
    monkeypatch_module.setattr(run, "build_report", lambda folder, inputs: None)
    monkeypatch_module.setattr(run, "SweepMetrics", lambda sweep: SweepObserver())
    root = tmp_path_factory.mktemp("identity")
    data, folder = root / "reviews.csv", root / "runs"

    def launch(names: tuple[str, str, str]) -> Finished:
        text = reviews.read_text()
        for old, new in zip((",down", ",so-so", ",up"), names, strict=True):
            text = text.replace(old, f",{new}")
        data.write_text(text)
        spec = parse_spec(
            {
                "name": "s",
                "model": str(tiny_model),
                "task": {"train": str(data), "text": "review", "label": "stars"},
                "methods": {"adapad": {"initial_rank": 1, "growth_start": 0.2}},
                "budgets": [TWO_EACH],
                "seeds": [0],
                "reference": False,
                "training": {"max_length": 32, "max_train_examples": 32, "epochs": 5},
            }
        )
        executor = LocalExecutor(spec)
        Sweep(spec, WorkingFolder(str(folder), folder), [], executor.open).run()
        return Finished(folder, len(executor.computed))

    return launch


@pytest.fixture(scope="module")
def finished(launch) -> Finished:
    return launch(("down", "so-so", "up"))


ALL = tuple(name for name in CellIdentity.model_fields if name not in NAMES)
"""A number that training yields: all of the identity determines it."""
FOLDER: tuple[str, ...] = ()
"""A name that no id holds; all cells of a folder have the same (`SHARED_BY_ALL_CELLS`), or the report replaces it."""
MEASURED: tuple[str, ...] = ()
"""Of the run that computed the cell: times, memory, versions, number of workers."""
FORMAT: tuple[str, ...] = ()
"""The same in all files of one version of this package."""
SHAPE = ("method", "method_version", "config", "target_modules", "budget")

RESULT = {
    "schema_version": FORMAT,
    "id": ALL,
    **{f"identity.{name}": FOLDER if name in NAMES else (name,) for name in CellIdentity.model_fields},
    "metric": ("data_digest",),
    "points.kind": SHAPE,
    "points.prefix": SHAPE,
    "points.parameters": ALL,
    "points.head_parameters": ("model_digest", "data_digest"),
    "points.ranks": ALL,
    "points.validation": ALL,
    "points.validation_loss": ALL,
    "points.test": ALL,
    "points.adapter": ("stage", *SHAPE),
    "train_loss": ALL,
    **{f"growth.{name}": ALL for name in ("step", "module", "rank", "spent")},
    "budget_remainder": ALL,
    **{f"cost.{name}": ALL for name in ("train_flops", "steps", "lane_passes", "tokens", "peak_parameters")},
    **{f"cost.{name}_seconds": MEASURED for name in ("start", "train", "evaluation")},
    **{f"cost.{name}": MEASURED for name in ("peak_memory_bytes", "workers", "side_by_side")},
    **{f"cost.per_worker.{name}_seconds": MEASURED for name in ("compute", "wait", "exchange")},
    **{f"cost.per_worker.{name}": MEASURED for name in ("rank", "bytes_published", "bytes_fetched")},
    "versions": MEASURED,
}
ADAPTER = {
    "cell": ALL,
    "point": SHAPE,
    "model": FOLDER,
    "model_digest": ("model_digest",),
    "pooling": ("model_digest",),
    "auto_class": ("data_digest",),
    "labels": ("data_digest",),
    "family": ("method", "config"),
    "parameters": ALL,
    "lora_parameters": ALL,
    "scaling_folded_into_B": SHAPE,
}
PEFT = {
    **dict.fromkeys(("peft_type", "task_type", "inference_mode", "lora_dropout", "bias", "use_rslora"), FORMAT),
    "base_model_name_or_path": FOLDER,
    "use_dora": ("method",),
    "fan_in_fan_out": ("model_digest",),
    **dict.fromkeys(("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules"), ALL),
    "modules_to_save": ("model_digest", "data_digest"),
}
FREE = {"ranks", "validation", "test", "versions", "config", "training", "scaling_folded_into_B"}
"""Mappings whose keys are names of modules, metrics, libraries or settings."""


def fields(content: Any, path: str = "") -> set[str]:
    """The dotted names of all fields of a JSON file."""
    if isinstance(content, list) and any(isinstance(part, dict) for part in content):
        return {name for part in content for name in fields(part, path)}
    free = path.rpartition(".")[2] in FREE or path.endswith("_pattern")
    if not isinstance(content, dict) or free:
        return {path}
    return {name for key, part in content.items() for name in fields(part, f"{path}.{key}" if path else key)}


@pytest.mark.parametrize(
    ("file", "sources"),
    [("result.json", RESULT), ("adapter/adapad.json", ADAPTER), ("adapter/adapter_config.json", PEFT)],
)
def test_every_field_of_a_cell_s_files_has_its_source_in_the_identity(file, sources, finished):
    """A new field needs an entry in the table above: can the identity stay the same while the field changes?"""
    (path,) = finished.folder.glob(f"cells/*/{file}")
    assert fields(json.loads(path.read_text())) == sources.keys()
    assert {name for names in sources.values() for name in names} <= set(CellIdentity.model_fields)


def test_what_an_adapter_says_of_its_model_and_cell_is_what_the_record_says(finished, tiny_model, tmp_path):
    exported = finished.export(tmp_path / "to")
    (path,) = finished.folder.glob("cells/*/result.json")
    result, peft = json.loads(path.read_text()), json.loads((tmp_path / "to" / "adapter_config.json").read_text())
    assert exported["cell"] == result["id"] == path.parent.name
    assert exported["model_digest"] == result["identity"]["model_digest"]
    assert exported["model"] == peft["base_model_name_or_path"] == str(tiny_model)
    assert set(peft["target_modules"]) <= set(result["identity"]["target_modules"])
    assert exported["labels"] == ["down", "so-so", "up"]


def test_renamed_classes_are_computed_again_and_exported_with_their_new_names(launch, finished, tmp_path):
    assert launch(("down", "so-so", "up")).computed == 0
    renamed = launch(("bad", "fair", "good"))  # the same order: every label has the same number
    assert renamed.computed == 1
    assert renamed.export(tmp_path / "new")["labels"] == ["bad", "fair", "good"]
    assert launch(("down", "so-so", "up")).computed == 0
    assert finished.export(tmp_path / "old")["labels"] == ["down", "so-so", "up"]


def test_an_interrupted_launch_leaves_no_cell_of_an_earlier_file_to_export(launch, finished, tmp_path, monkeypatch):
    def interrupted(self, cell_id, job, on_event) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalExecutor, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch(("one", "three", "two"))
    (planned,) = Manifest.load(finished.folder).labels or {}
    assert not (finished.folder / "cells" / planned / "result.json").exists()
    with pytest.raises(BadRequestError, match="holds no finished cell"):
        finished.export(tmp_path / "to")
