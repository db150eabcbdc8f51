"""Cells and trainers of the check, for any method and any device."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from adapad_ray.methods import METHODS, Method
from adapad_ray.models import initialise_head
from adapad_ray.models.target_modules import target_modules
from adapad_ray.results import CellIdentity, CellResult
from adapad_ray.training.batches import Batches
from adapad_ray.training.cell import CellRequest, Workspace, make_method, parent_identity, run_cell
from adapad_ray.training.packs import PackedTrainer, SharedPasses
from adapad_ray.training.randomness import derive_seed
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.trainer import Trainer
from benchmarks.gpu.scale import Scale


def identity(
    method: str, workspace: Workspace, scale: Scale, config: Mapping[str, Any] | None = None, **training: Any
) -> CellIdentity:
    """A cell of `steps` steps with a budget of `rank` components per module."""
    modules = target_modules(workspace.backbone.model, "all-linear")
    cls = METHODS[method]
    settings = {"epochs": 1, "batch_size": scale.batch_size, "max_length": scale.tokens, "learning_rate": 1e-3}
    return CellIdentity(
        stage="curve",
        label=method,
        method=method,
        method_version=cls.version,
        config=cls.Config(**(config or {})).model_dump(),
        training=TrainingSettings(**{**settings, **training}).model_dump(),
        model="random",
        model_digest="",
        task="random",
        data_digest="",
        target_modules=tuple(m.name for m in modules),
        budget=scale.rank * sum(m.component_cost for m in modules) if cls.budgeted else None,
        seed=0,
        dtype="float32",
        precision="full",
        threads=torch.get_num_threads(),
    )


def run(cell: CellIdentity, workspace: Workspace, folder: Path) -> CellResult:
    """Computes a cell in `folder`, after its parent if it has one."""
    parent, parents_cell = None, parent_identity(cell, _method(cell, workspace))
    if parents_cell is not None:
        folder.mkdir(parents=True, exist_ok=True)
        parent = Path(tempfile.mkdtemp(dir=folder))
        run_cell(CellRequest("parent", parents_cell, parent, "random"), workspace)
    result = run_cell(CellRequest("cell", cell, folder, "random", parent), workspace)
    assert result is not None
    return result


def trainer(cell: CellIdentity, workspace: Workspace, slots_per_pass: int | Literal["auto"] = 1) -> Trainer:
    """A trainer, set up as in `run_cell` but not started; it leaves the backbone adapted."""
    backbone, data, method = workspace.backbone, workspace.data, _method(cell, workspace)
    initialise_head(backbone.model, backbone.head_modules, derive_seed(cell.seed, "head"))
    method.adapt(backbone.model, backbone.head_modules)
    settings = TrainingSettings(**cell.training)
    batches = Batches(data.splits["train"], settings, seed=0, pad_token_id=0, device=workspace.device)
    options: dict[str, Any] = {"total_steps": method.training_steps, "loss": data.loss}
    if slots_per_pass == 1:
        return Trainer(method, batches, settings, **options)
    return PackedTrainer(method, batches, settings, passes=SharedPasses(slots_per_pass), **options)


def trains_itself(cell: CellIdentity, workspace: Workspace) -> bool:
    """Whether the method trains its own adapter, instead of cutting that of another cell."""
    return _method(cell, workspace).parent() is None


def _method(cell: CellIdentity, workspace: Workspace) -> Method[Any]:
    modules = workspace.shapes(cell.target_modules)
    return make_method(cell, modules, len(workspace.data.splits["train"]), workspace.backbone.parameters)
