"""The jobs of a pool that computes cells: how a worker is set up, and how it computes one cell."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
import torch

from adapad_ray.accelerator import AcceleratorMemoryError, limit_memory, require_accelerator
from adapad_ray.distributed.board_exchange import BoardExchange
from adapad_ray.distributed.jobs import JobContext, SetupContext
from adapad_ray.distributed.ray_internals import process_title
from adapad_ray.distributed.ray_metrics import CellMetrics
from adapad_ray.distributed.shared_backbone import OfferedBackbone, SharedBackbone
from adapad_ray.errors import BadRequestError, StorageError
from adapad_ray.results import CellIdentity, CellResult
from adapad_ray.storage import CHECKPOINT, RECORD, WorkingFolder, working_folder
from adapad_ray.training.cell import CellRequest, Workspace, run_cell
from adapad_ray.training.checkpoint import CheckpointPolicy
from adapad_ray.training.record import OnProgress, RoundObserver, RoundStats
from adapad_ray.training.workers import AttemptLostError

PROGRESS_SECONDS = 0.5
"""Reports of progress that follow the last one sooner are skipped."""
ROUNDS_SECONDS = 5.0
"""Workers other than rank 0, which do not see when a checkpoint is saved, store their rounds this often."""


class TimeLimitError(RuntimeError):
    """A cell takes longer than the sweep's file allows; its checkpoint is kept."""


def open_workspace(context: SetupContext) -> Workspace:
    """Sets a worker up: opens the frozen backbone, and takes the tokenised data from the object store.

    Raises:
        NoAcceleratorError: this worker has a GPU that torch does not see.
        BadRequestError: the backbone's files are not on this node.
    """
    if context.gpus:
        require_accelerator()
    limit_memory(context.device, context.gpus)
    offered: OfferedBackbone | SharedBackbone = ray.get(context.shared["backbone"])
    return Workspace(offered.open(context.device), ray.get(context.shared["data"]), context.device)


def compute(workspace: Workspace, payload: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Computes a cell, or this worker's part of it; returns what its stage maximises as `score`.

    If an earlier attempt lost its worker after the result was written, rank 0 returns that result. The other ranks do
    not look for it, because two workers may see a shared folder differently; the queue ends their attempt.

    Args:
        payload: `identity`, `folder` (path or URL), `base_model`, `checkpoint_seconds`, `checkpoint_rounds`,
            `max_minutes` (None without a limit) and, for metrics, `sweep`; optional: `validations`, and for packed
            cells `slots_per_pass`.

    Raises:
        TimeLimitError: the training takes longer than `max_minutes`.
        AttemptLostError: another worker of this cell is gone, or the storage cannot be reached; a new attempt may
            succeed.
    """
    with _opened(payload["folder"]) as folder:
        folder.fetch(checkpoints=True)
        result = _finished(folder.path, context) or _compute_in(folder, workspace, payload, context)
        folder.save()
    if result is None:
        return {}
    return {"score": result.tuning_score if result.identity.stage == "tune" else result.score}


@contextmanager
def _opened(location: str) -> Iterator[WorkingFolder]:
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(working_folder(location))
        except BadRequestError as error:  # a problem of this node, not of the cell
            raise AttemptLostError(str(error)) from error
        try:
            yield folder
        except StorageError as error:
            raise AttemptLostError(str(error)) from error


def _finished(folder: Path, context: JobContext) -> CellResult | None:
    if context.rank > 0 or not (folder / RECORD).exists():
        return None
    return CellResult.model_validate_json((folder / RECORD).read_text())


def _compute_in(
    folder: WorkingFolder, workspace: Workspace, payload: dict[str, Any], context: JobContext
) -> CellResult | None:
    identity = CellIdentity.model_validate(payload["identity"])
    policy = CheckpointPolicy(payload["checkpoint_seconds"], payload["checkpoint_rounds"])
    exchange = None
    if context.board is not None:
        exchange = BoardExchange(context.board, context.generation, context.rank, context.world_size)
    metrics = CellMetrics(
        payload.get("sweep", ""),
        context.job_id,
        identity.label,
        context.rank,
        budget=identity.budget,
        device=workspace.device,
    )
    first = context.rank == 0
    with (
        _parent_folder(payload["folder"], identity) as parent,
        metrics,
        process_title(f"adapad:cell-{context.job_id}:worker-{context.rank}"),
        memory_advice(identity),
    ):
        times = payload.get("validations", 0)
        return run_cell(
            CellRequest(
                context.job_id,
                identity,
                folder.path,
                payload["base_model"],
                parent,
                policy,
                times,
                payload.get("slots_per_pass", "auto"),
            ),
            workspace,
            exchange=exchange,
            on_progress=_throttled(context) if first else None,
            observer=_limited(
                _storing(metrics, folder, min(policy.seconds, 60.0 if first else ROUNDS_SECONDS)),
                payload.get("max_minutes"),
            ),
        )


@contextmanager
def memory_advice(identity: CellIdentity) -> Iterator[None]:
    """Says what would need less memory if a GPU has too little."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        training = identity.training
        advice = [f"a smaller training.batch_size (now {training['batch_size']})"]
        advice += [f"a smaller training.max_length (now {training['max_length']})"]
        if not training["gradient_checkpointing"]:
            advice.append("training.gradient_checkpointing: true")
        if identity.dtype == "float32":
            advice.append("dtype: bfloat16")
        reason = str(error).partition("\n")[0]
        raise AcceleratorMemoryError(f"{reason} What needs less: {', '.join(advice)}") from error


@contextmanager
def _parent_folder(cell: str, identity: CellIdentity) -> Iterator[Path | None]:
    """The folder, beside its own, of the cell whose adapter this one cuts; None for a cell without a parent."""
    if identity.parent is None:
        yield None
        return
    with _opened(f"{cell.rpartition('/')[0]}/{identity.parent}") as folder:
        folder.fetch()
        yield folder.path


def _storing(observer: RoundObserver, folder: WorkingFolder, seconds: float) -> RoundObserver:
    """Wraps `observer`; where the folder is a local copy, uploads every new checkpoint, and the rounds regularly.

    Args:
        seconds: time between two uploads without a new checkpoint.
    """
    if folder.store is None:
        return observer
    checkpoint, last = folder.path / CHECKPOINT, time.monotonic()
    saved = _modified(checkpoint)

    def observe(stats: RoundStats) -> None:
        nonlocal last, saved
        observer(stats)
        now, newest = time.monotonic(), _modified(checkpoint)
        if newest != saved or now - last >= seconds:
            with suppress(StorageError):  # tried again next time and at the end
                folder.save()
            last, saved = now, newest

    return observe


def _limited(observer: RoundObserver, minutes: float | None) -> RoundObserver:
    """Wraps `observer`; ends the training at the end of the first round after so many minutes."""
    if minutes is None:
        return observer
    deadline = time.monotonic() + 60 * minutes

    def observe(stats: RoundStats) -> None:
        observer(stats)
        if time.monotonic() > deadline:
            raise TimeLimitError(
                f"it has not ended after {minutes:g} minutes (max_minutes.cell), at step {stats.step}: allow more, "
                "and it continues from its last checkpoint"
            )

    return observe


def _modified(folder: Path) -> int:
    """When a file of the folder was last replaced, in ns; 0 where there is no folder."""
    return folder.stat().st_mtime_ns if folder.exists() else 0


def _throttled(context: JobContext) -> OnProgress:
    last = 0.0

    def report(data: dict[str, Any]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS:
            last = now
            context.report(data)

    return report
