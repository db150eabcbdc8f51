"""Cells of any method on all linear layers of a backbone, from their identity to their record."""

import torch

from adapad_ray.methods import METHODS
from adapad_ray.models.target_modules import target_modules
from adapad_ray.results import CellIdentity
from adapad_ray.training.cell import CellRequest, make_method, parent_identity, run_cell


def identity_of(method, workspace, config, training, *, ranks, name="tiny", packed=False):
    """The identity of a cell with a budget of `ranks` components on each module."""
    modules, cls = target_modules(workspace.backbone.model, "all-linear"), METHODS[method]
    return CellIdentity(
        stage="curve",
        label=method,
        method=method,
        method_version=cls.version,
        config=cls.Config(**config).model_dump(),
        training=training.model_dump(),
        model=name,
        model_digest="",
        task="tiny",
        data_digest="",
        target_modules=tuple(module.name for module in modules),
        budget=ranks * sum(module.component_cost for module in modules) if cls.budgeted else None,
        seed=0,
        dtype="float32",
        threads=torch.get_num_threads(),
        packed=packed,
    )


def compute(identity, workspace, folder, slots=1):
    """A finished cell, and of its parent before it where it has one."""
    examples, name = len(workspace.data.splits["train"]), identity.model
    modules = workspace.shapes(identity.target_modules)
    planned = parent_identity(identity, make_method(identity, modules, examples, workspace.backbone.parameters))
    parent = None
    if planned is not None:
        parent = folder / "parent"
        run_cell(CellRequest("parent", planned, parent, name), workspace)
    return run_cell(CellRequest("cell", identity, folder / "cell", name, parent, slots_per_pass=slots), workspace)
