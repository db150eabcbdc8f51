"""One cell of a sweep: prepare, train, evaluate, record. A cell is one (method, task, model, budget, seed) to train."""

from adapad_ray.training.cell.method import check_workers, make_method, parent_identity
from adapad_ray.training.cell.request import CellRequest
from adapad_ray.training.cell.run import run_cell
from adapad_ray.training.cell.side_by_side import PackedCell, run_packed_cells
from adapad_ray.training.cell.workspace import Workspace, forward_flops_per_token, shape_inputs

__all__ = [
    "CellRequest",
    "PackedCell",
    "Workspace",
    "check_workers",
    "forward_flops_per_token",
    "make_method",
    "parent_identity",
    "run_cell",
    "run_packed_cells",
    "shape_inputs",
]
