"""The jobs of a pool that computes cells: what a worker keeps, and how it computes one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from adapad_ray.distributed.backbone import open_backbone
from adapad_ray.distributed.exchange import BoardExchange
from adapad_ray.distributed.jobs import JobContext, SetupContext
from adapad_ray.distributed.metrics import CellMetrics
from adapad_ray.results import CellIdentity, CellResult
from adapad_ray.training.cell import Workspace, run_cell

PROGRESS_SECONDS = 0.5


def open_workspace(context: SetupContext) -> Workspace:
    """A worker's set-up: the frozen backbone and the tokenised data, straight from the object store."""
    backbone = open_backbone(ray.get(context.shared["backbone"]), context.device)
    return Workspace(backbone, ray.get(context.shared["data"]), context.device)


def compute(workspace: Workspace, payload: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """One cell, or this worker's part of it. The value is the validation metric as `score`; the record is a file.

    An earlier attempt may have lost its worker after the result was written: then there is nothing left to do. Only
    rank 0 looks, because two workers may see a shared folder differently; the queue tells the others.
    """
    folder = Path(payload["folder"])
    result: CellResult | None
    if context.rank == 0 and (folder / "result.json").exists():
        result = CellResult.model_validate_json((folder / "result.json").read_text())
    else:
        exchange = None
        if context.board is not None:
            exchange = BoardExchange(context.board, context.generation, context.rank, context.world_size)
        identity = CellIdentity.model_validate(payload["identity"])
        metrics = CellMetrics(
            payload.get("sweep", ""),
            context.job_id,
            identity.label,
            context.rank,
            budget=identity.budget,
            device=workspace.device,
        )
        with metrics, _process_name(f"adapad:cell-{context.job_id}:worker-{context.rank}"):
            result = run_cell(
                context.job_id,
                identity,
                workspace,
                folder,
                base_model=payload["base_model"],
                checkpoint_seconds=payload["checkpoint_seconds"],
                checkpoint_rounds=payload["checkpoint_rounds"],
                progress=_throttled(context) if context.rank == 0 else None,
                exchange=exchange,
                observer=metrics,
                parent=None if identity.parent is None else folder.parent / identity.parent,
            )
    return {} if result is None else {"score": result.final.validation[result.metric]}


@contextmanager
def _process_name(name: str) -> Iterator[None]:
    """What `ps` and Ray's dashboard call this process while the block runs, behind the prefix `ray::`.

    Workers outlive their cells, and an actor's name is for ever: the title of the process is what can say which cell it
    has now. Ray makes it from the class of the actor, anew after each call, so it is the class that is renamed; it is
    this actor's alone. Ray reports memory and CPU of each process under its title.
    """
    worker = ray._private.worker.global_worker
    own_class = type(worker.actors[worker.actor_id])
    before = own_class.__name__
    own_class.__name__ = name
    ray._raylet.setproctitle(f"ray::{name}")
    try:
        yield
    finally:
        own_class.__name__ = before
        ray._raylet.setproctitle(f"ray::{before}")


def _throttled(context: JobContext) -> Callable[[dict[str, Any]], None]:
    last = 0.0

    def report(data: dict[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            context.report(data)

    return report
