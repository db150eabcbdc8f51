"""The jobs of a pool that computes cells: what a worker keeps, and how it computes one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray

from adapad_ray.distributed.board_exchange import BoardExchange
from adapad_ray.distributed.jobs import JobContext, SetupContext
from adapad_ray.distributed.ray_internals import process_title
from adapad_ray.distributed.ray_metrics import CellMetrics
from adapad_ray.distributed.shared_backbone import open_backbone
from adapad_ray.errors import BadRequestError, StorageError
from adapad_ray.results import CellIdentity, CellResult
from adapad_ray.storage import CHECKPOINT, RECORD, WorkingFolder, working_folder
from adapad_ray.training.cell import Workspace, run_cell
from adapad_ray.training.record import RoundObserver, RoundStats
from adapad_ray.training.workers import AttemptLostError

PROGRESS_SECONDS = 0.5


def open_workspace(context: SetupContext) -> Workspace:
    """A worker's set-up: the frozen backbone and the tokenised data, straight from the object store."""
    backbone = open_backbone(ray.get(context.shared["backbone"]), context.device)
    return Workspace(backbone, ray.get(context.shared["data"]), context.device)


def compute(workspace: Workspace, payload: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """One cell, or this worker's part of it. The value is the validation metric as `score`; the record is a file.

    An earlier attempt may have lost its worker after the result was written: then there is nothing left to do. Only
    rank 0 looks, because two workers may see a shared folder differently; the queue tells the others.

    Raises:
        AttemptLostError: another worker of this cell is gone, or the store of a URL cannot be reached: worth a further
            attempt.
    """
    with _opened(payload["folder"]) as place:
        place.fetch(checkpoints=True)
        result = _compute_in(place, workspace, payload, context)
        place.save()
    return {} if result is None else {"score": result.final.validation[result.metric]}


@contextmanager
def _opened(place: str) -> Iterator[WorkingFolder]:
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(working_folder(place))
        except BadRequestError as error:  # this node's fault, not the cell's
            raise AttemptLostError(str(error)) from error
        try:
            yield folder
        except StorageError as error:
            raise AttemptLostError(str(error)) from error


def _compute_in(
    place: WorkingFolder, workspace: Workspace, payload: dict[str, Any], context: JobContext
) -> CellResult | None:
    folder = place.path
    if context.rank == 0 and (folder / RECORD).exists():
        return CellResult.model_validate_json((folder / RECORD).read_text())
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
    with (
        _parent_folder(payload["folder"], identity) as parent,
        metrics,
        process_title(f"adapad:cell-{context.job_id}:worker-{context.rank}"),
    ):
        return run_cell(
            context.job_id,
            identity,
            workspace,
            folder,
            base_model=payload["base_model"],
            checkpoint_seconds=payload["checkpoint_seconds"],
            checkpoint_rounds=payload["checkpoint_rounds"],
            progress=_throttled(context) if context.rank == 0 else None,
            exchange=exchange,
            # Rank 0 alone knows when there is a checkpoint. The rounds of others are not to be much behind it.
            observer=_kept(metrics, place, min(payload["checkpoint_seconds"], 60.0 if context.rank == 0 else 5.0)),
            parent=parent,
        )


@contextmanager
def _parent_folder(cell: str, identity: CellIdentity) -> Iterator[Path | None]:
    """The folder of the cell from whose adapter this one is cut, beside its own; None where there is no such."""
    if identity.parent is None:
        yield None
        return
    with _opened(f"{cell.rpartition('/')[0]}/{identity.parent}") as place:
        place.fetch()
        yield place.path


def _kept(observer: RoundObserver, place: WorkingFolder, seconds: float) -> RoundObserver:
    """Observes, then saves a copy's checkpoint as soon as there is a new one, and the rounds every so many seconds."""
    if place.store is None:
        return observer
    checkpoint, last = place.path / CHECKPOINT, time.monotonic()
    saved = _changed(checkpoint)

    def observe(stats: RoundStats) -> None:
        nonlocal last, saved
        observer(stats)
        now, newest = time.monotonic(), _changed(checkpoint)
        if newest != saved or now - last >= seconds:
            with suppress(StorageError):  # the next time, or the last, tries again
                place.save()
            last, saved = now, newest

    return observe


def _changed(folder: Path) -> int:
    """When a file of the folder was last replaced, ns; 0 where there is no folder."""
    return folder.stat().st_mtime_ns if folder.exists() else 0


def _throttled(context: JobContext) -> Callable[[dict[str, Any]], None]:
    last = 0.0

    def report(data: dict[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            context.report(data)

    return report
