"""Set-up and job of `distributed.py` in a module that its workers can import: one cell, with times of its rounds."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import ray

from adapad_ray.distributed import JobContext, SetupContext
from adapad_ray.distributed.board_exchange import BoardExchange
from adapad_ray.distributed.cell_jobs import open_workspace
from adapad_ray.results import CellIdentity
from adapad_ray.training.cell import CellRequest, Workspace, run_cell
from adapad_ray.training.record import RoundStats


def set_up(context: SetupContext) -> Workspace:
    """Opens the workspace and creates a file that marks this worker as ready."""
    workspace = open_workspace(context)
    (Path(ray.get(context.shared["ready"])) / f"{context.group}-{context.rank}").touch()
    return workspace


def measure(workspace: Workspace, payload: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Runs the cell and writes this worker's rounds to `<folder>.rank-<rank>.json`."""
    rounds: list[dict[str, Any]] = []
    last = time.perf_counter(), time.process_time()

    def note(stats: RoundStats) -> None:
        nonlocal last
        now = time.perf_counter(), time.process_time()
        rounds.append(
            {
                "wall": now[0] - last[0],
                "cpu": now[1] - last[1],
                "compute": stats.compute_seconds,
                "wait": stats.wait_seconds,
                "exchange": stats.exchange_seconds,
                "published": stats.bytes_published,
                "fetched": stats.bytes_fetched,
            }
        )
        last = now

    exchange = None
    if context.board is not None:
        exchange = BoardExchange(context.board, context.generation, context.rank, context.world_size)
    folder = Path(payload["folder"])
    request = CellRequest(context.job_id, CellIdentity.model_validate(payload["identity"]), folder, "minilm-l6")
    run_cell(request, workspace, exchange=exchange, observer=note)
    Path(f"{folder}.rank-{context.rank}.json").write_text(json.dumps(rounds))
    return {}
