"""The job of the test of shared memory; its set-up is the benchmark's."""

from pathlib import Path
from typing import Any

from adapad_ray.distributed import JobContext
from adapad_ray.distributed.cell_jobs import compute
from adapad_ray.training.cell import Workspace
from benchmarks.memory import STORE


def run(workspace: Workspace, payload: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Computes a cell, then names the frozen parameters that do not lie in the object store any more."""
    compute(workspace, payload, context)
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if STORE in line]
    ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in maps]
    head = tuple(f"{name}." for name in workspace.backbone.head_modules)
    private = [
        name
        for name, p in workspace.backbone.model.named_parameters()
        if not any(low <= p.data_ptr() < high for low, high in ranges) and not name.startswith(head)
    ]
    return {"private": private, "parameters": len(list(workspace.backbone.model.parameters()))}
