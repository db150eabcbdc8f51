"""The jobs of a pool that computes cells: how a worker is set up, and how it computes one cell, or several together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
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
from adapad_ray.training.cell import CellRequest, PackedCell, Workspace, run_cell, run_packed_cells
from adapad_ray.training.cell.rungs import load_rungs
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

    Where the training pauses, rank 0 returns the step as `paused`, and the score there or None.

    If an earlier attempt lost its worker after the result was written, rank 0 returns that result. The other ranks do
    not look for it, because two workers may see a shared folder differently; the queue ends their attempt.

    Args:
        payload: `identity`, `folder` (path or URL), `base_model`, `checkpoint_seconds`, `checkpoint_rounds`,
            `max_minutes` (None without a limit) and, for metrics, `sweep`; optional: `validations`, `pause_at`, and for
            packed cells `slots_per_pass`.

    Raises:
        TimeLimitError: the training takes longer than `max_minutes`.
        AttemptLostError: another worker of this cell is gone, or the storage cannot be reached; a new attempt may
            succeed.
    """
    with _opened(payload["folder"]) as folder:
        folder.fetch(checkpoints=True)
        result = _finished(folder.path, context) or _compute_in(folder, workspace, payload, context)
        folder.save()
        return _value(result, folder.path, payload) if context.rank == 0 else {}


def compute_together(
    workspace: Workspace,
    payloads: Mapping[str, dict[str, Any]],
    contexts: Mapping[str, JobContext],
    answer: Callable[[str, Any], None],
) -> None:
    """Computes packed cells whose lanes share passes.

    Args:
        payloads: by job, as for `compute`.
        answer: called with the id of a job and its value or exception when its cell has ended.
    """
    title = f"adapad:{len(payloads)}-cells:worker-0"
    with process_title(title), _OpenCells(workspace, payloads, contexts, answer) as opened:
        cells = {job_id: cell for job_id in payloads if (cell := opened.open(job_id)) is not None}
        if cells:
            run_packed_cells(cells, workspace, opened.end)


class _OpenCells(ExitStack):
    """The folders and metrics of cells that are computed together; each is closed when its cell ends."""

    def __init__(
        self,
        workspace: Workspace,
        payloads: Mapping[str, dict[str, Any]],
        contexts: Mapping[str, JobContext],
        answer: Callable[[str, Any], None],
    ) -> None:
        super().__init__()
        self._workspace, self._payloads, self._contexts, self._answer = workspace, payloads, contexts, answer
        self._stacks = {job_id: self.enter_context(ExitStack()) for job_id in payloads}
        self._folders: dict[str, WorkingFolder] = {}

    def open(self, job_id: str) -> PackedCell | None:
        """What a job asks for; None for one that has ended already, because it is finished or cannot be opened."""
        payload, context, stack = self._payloads[job_id], self._contexts[job_id], self._stacks[job_id]
        try:
            folder = self._folders[job_id] = stack.enter_context(_opened(payload["folder"]))
            folder.fetch(checkpoints=True)
            finished = _finished(folder.path, context)
            if finished is None:
                side_by_side = len(self._payloads)
                return stack.enter_context(_cell(folder, self._workspace, payload, context, side_by_side))
        except Exception as error:  # noqa: BLE001 - it ends its job alone, whatever it is
            self.end(job_id, error)
        else:
            self.end(job_id, finished)
        return None

    def end(self, job_id: str, ended: CellResult | Exception | None) -> None:
        """Stores what a cell has left, and answers."""
        try:
            with self._stacks[job_id], memory_advice(CellIdentity.model_validate(self._payloads[job_id]["identity"])):
                if isinstance(ended, Exception):
                    raise ended
                folder = self._folders[job_id]
                folder.save()
                value: Any = _value(ended, folder.path, self._payloads[job_id])
        except StorageError as error:
            value = AttemptLostError(str(error))
        except Exception as error:  # noqa: BLE001 - the driver reports it, whatever it is
            value = error
        self._answer(job_id, value)


def _value(result: CellResult | None, folder: Path, payload: dict[str, Any]) -> dict[str, Any]:
    """What a job returns for a finished cell, or for one that has paused."""
    if result is None:
        score = next(rung.score for rung in load_rungs(folder) if rung.step == payload["pause_at"])
        return {"paused": payload["pause_at"], "score": score}
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
    exchange = None
    if context.board is not None:
        exchange = BoardExchange(context.board, context.generation, context.rank, context.world_size)
    with (
        _cell(folder, workspace, payload, context) as cell,
        process_title(f"adapad:cell-{context.job_id}:worker-{context.rank}"),
        memory_advice(cell.request.identity),
    ):
        return run_cell(
            cell.request, workspace, exchange=exchange, on_progress=cell.on_progress, observer=cell.observer
        )


@contextmanager
def _cell(
    folder: WorkingFolder, workspace: Workspace, payload: dict[str, Any], context: JobContext, side_by_side: int = 1
) -> Iterator[PackedCell]:
    """What a job asks this worker to compute, with the folder of the cell's parent open and its metrics exported."""
    identity = CellIdentity.model_validate(payload["identity"])
    policy = CheckpointPolicy(payload["checkpoint_seconds"], payload["checkpoint_rounds"])
    metrics = CellMetrics(
        payload.get("sweep", ""),
        context.job_id,
        identity.label,
        context.rank,
        budget=identity.budget,
        device=workspace.device,
        side_by_side=side_by_side,
    )
    first = context.rank == 0
    with _parent_folder(payload["folder"], identity) as parent, metrics:
        request = CellRequest(
            context.job_id,
            identity,
            folder.path,
            payload["base_model"],
            parent,
            policy,
            payload.get("validations", 0),
            payload.get("pause_at"),
            payload.get("slots_per_pass", "auto"),
        )
        stored = _storing(metrics, folder, min(policy.seconds, 60.0 if first else ROUNDS_SECONDS))
        yield PackedCell(request, _throttled(context) if first else None, _limited(stored, payload.get("max_minutes")))


@contextmanager
def memory_advice(identity: CellIdentity) -> Iterator[None]:
    """Says what would need less memory if a GPU has too little."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        training = identity.training
        passed = training.get("micro_batch_size") or training["batch_size"]
        advice = [f"a smaller training.micro_batch_size (passes have {passed} examples)"]
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
