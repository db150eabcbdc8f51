"""One cell from its identity to its record: prepare, train, evaluate, record."""

from __future__ import annotations

import platform
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from adapad_ray.accelerator import accelerator_name, arithmetic, peak_memory, reset_peak_memory
from adapad_ray.adapters.load import load_adapter
from adapad_ray.files import write_text
from adapad_ray.methods.base import Method
from adapad_ray.methods.plan import Plan
from adapad_ray.models import initialise_head
from adapad_ray.results import CellIdentity, CellResult, Cost, Point, WorkerCost
from adapad_ray.storage import CHECKPOINT, RECORD
from adapad_ray.training.batches import Batches
from adapad_ray.training.cell.deployment import Deployment
from adapad_ray.training.cell.method import make_method, workers_for
from adapad_ray.training.cell.request import CellRequest
from adapad_ray.training.cell.rungs import add_rung, load_rungs
from adapad_ray.training.cell.validation import Validator
from adapad_ray.training.cell.workspace import Workspace
from adapad_ray.training.checkpoint import Checkpoint, Checkpointer
from adapad_ray.training.component_errors import COMPONENT_ERRORS, component_probe, write_component_errors
from adapad_ray.training.packs import PackedTrainer, SharedPasses
from adapad_ray.training.passes.sequence_packing import in_one_row
from adapad_ray.training.randomness import derive_seed
from adapad_ray.training.record import OnProgress, RoundObserver, RoundStats
from adapad_ray.training.round_log import RoundLog
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.trainer import Trainer
from adapad_ray.training.workers import Exchange, Share, Workers

_LIBRARIES = ("adapad-ray", "torch", "transformers", "peft", "numpy", "safetensors", "ray")


def run_cell(
    request: CellRequest,
    workspace: Workspace,
    *,
    exchange: Exchange | None = None,
    on_progress: OnProgress | None = None,
    observer: RoundObserver | None = None,
) -> CellResult | None:
    """Computes a cell, or resumes it from its checkpoint, and writes adapters, predictions and `result.json`.

    Only the curve stage reads the test split, and the tune stage exports nothing. `result.json` is written last and
    atomically: a cell that has one is finished. Several workers call this side by side, each with its end of one
    `exchange`; each writes its rounds to the cell's folder and evaluates some of the prefixes, rank 0 writes the rest,
    the others return None. All do where the training pauses; rank 0 adds the score there to the cell's folder.

    Raises:
        BadRequestError: the method cannot be built as requested; nothing was written.
        DivergedError: training produced a value that is not finite.
        AttemptLostError: another worker of this cell is gone.
    """
    steps = cell_steps(request, workspace, exchange=exchange, on_progress=on_progress, observer=observer)
    with closing(steps), training_arithmetic(request.identity):
        while True:
            try:
                trainer = next(steps)
            except StopIteration as ended:
                result: CellResult | None = ended.value
                return result
            trainer.train_step()


def training_arithmetic(identity: CellIdentity) -> AbstractContextManager[None]:
    """The arithmetic in which a cell trains, for the time of the context."""
    settings = TrainingSettings(**identity.training)
    return arithmetic(tf32=identity.precision == "tf32", deterministic=settings.deterministic)


CellSteps = Generator[Trainer, None, CellResult | None]
"""Yields the cell's trainer whenever a step is due, and returns the cell's record."""


def cell_steps(
    request: CellRequest,
    workspace: Workspace,
    *,
    exchange: Exchange | None = None,
    on_progress: OnProgress | None = None,
    observer: RoundObserver | None = None,
    passes: SharedPasses | None = None,
) -> CellSteps:
    """Computes a cell as `run_cell` does, except that the caller takes the steps, in `training_arithmetic`.

    Closing the generator ends the cell where it is, and gives the backbone back.

    Args:
        passes: for a packed cell: shared with the cells that train beside it, whose workspaces are twins.

    Raises:
        As `run_cell`.
    """
    called = time.perf_counter()
    reset_peak_memory(workspace.device)
    identity, data = request.identity, workspace.data
    deterministic = bool(identity.training["deterministic"])
    with arithmetic(tf32=False, deterministic=deterministic):
        modules = workspace.shapes(identity.target_modules)
        method = make_method(identity, modules, len(data.splits["train"]), workspace.backbone.parameters)
        plan = method.plan()  # rejects what cannot be built
        workers = workers_for(method, exchange)
        parent = _inherit(method, request.parent)
        flops_per_token = workspace.forward_flops_per_token  # before adapters are attached, or theirs would count
        if identity.training.get("pack_sequences"):
            workspace.check_packing(
                in_16_bits=identity.precision == "mixed" or identity.dtype in ("bfloat16", "float16")
            )

    with closing(RoundLog(request.folder, workers.rank)) as log, _adapted_backbone(method, request, workspace):
        trainer = _trainer(method, plan, request, workspace, workers, _observers(log, observer), passes)
        checkpointer = Checkpointer(request.folder / CHECKPOINT, request.checkpoints)
        _start_or_resume(trainer, checkpointer.folder)
        log.rewind(trainer.estimates.newest, workers.count)
        if request.validations and workers.complete:
            validator = Validator(request, workspace, method)
            validator.rewind(trainer.step)
            on_progress = validator.reporting(on_progress)
        if on_progress is not None and trainer.total_steps:
            on_progress({"step": trainer.step, "steps": trainer.total_steps, "loss": None, "resumed": trainer.step})
        started = time.perf_counter()
        pause_at = _pause(request, trainer)
        for _ in trainer.steps(checkpointer, pause_at=pause_at, on_progress=on_progress):
            yield trainer
        if trainer.step == pause_at:
            if workers.leads:
                _add_rung(request, workspace, trainer)
            return None
        ended = trainer.estimates.newest
        worker_costs = workers.collect(ended + 1, Share({}, log.cost))
        trained = time.perf_counter()
        deployment = Deployment(request, workspace, method.adapted)
        with arithmetic(tf32=False, deterministic=deterministic):
            points = deployment.points(method.deployables(), workers, ended + 2)
        if not workers.leads:
            return None
        evaluated = time.perf_counter()

    seconds = _Seconds(start=started - called, evaluation=evaluated - trained)
    cost = _cost(trainer, plan, flops_per_token, seconds, workspace.device, [share.meta for share in worker_costs])
    if parent is not None:
        cost = _with_training_of(parent.cost, cost)
    result = _result(request, workspace, trainer, points, cost)
    deployment.save_predictions()
    probes = trainer.record.probes
    write_component_errors(request.folder / COMPONENT_ERRORS, probes, method.local_steps, trainer.total_steps)
    write_text(request.folder / RECORD, result.model_dump_json(indent=1))
    Checkpoint.remove(checkpointer.folder)
    return result


def _inherit(method: Method[Any], parent: Path | None) -> CellResult | None:
    """Gives a post-hoc method the adapter in its parent's folder; returns the parent's record."""
    if method.parent() is None:
        return None
    if parent is None:
        raise ValueError(f"{method.name} cuts the adapter of another cell: pass the folder of that cell as `parent`")
    method.inherit(load_adapter(parent / "adapter"))
    return CellResult.model_validate_json((parent / RECORD).read_text())


@contextmanager
def _adapted_backbone(method: Method[Any], request: CellRequest, workspace: Workspace) -> Iterator[None]:
    """Attaches a fresh head and the method's adapters, and restores the bare backbone for the next cell.

    The backbone is restored before any file is closed, because closing fails on a full disk.
    """
    backbone = workspace.backbone
    initialise_head(backbone.model, backbone.head_modules, derive_seed(request.identity.seed, "head"))
    adapted = method.adapt(backbone.model, backbone.head_modules)
    try:
        yield
    finally:
        adapted.detach()


def _observers(log: RoundLog, observer: RoundObserver | None) -> RoundObserver:
    def observe(stats: RoundStats) -> None:
        log(stats)
        if observer is not None:
            observer(stats)

    return observe


def _trainer(
    method: Method[Any],
    plan: Plan,
    request: CellRequest,
    workspace: Workspace,
    workers: Workers,
    observer: RoundObserver,
    passes: SharedPasses | None,
) -> Trainer:
    backbone, data = workspace.backbone, workspace.data
    settings, seed = TrainingSettings(**request.identity.training), request.identity.seed
    nothing_to_train = plan.trains_head_only and not backbone.head_modules
    kind: Any = Trainer
    if request.identity.packed:
        kind = partial(PackedTrainer, passes=passes or SharedPasses(request.slots_per_pass))
    trainer: Trainer = kind(
        method,
        Batches(
            data.splits["train"],
            settings,
            seed=seed,
            pad_token_id=backbone.pad_token_id,
            device=workspace.device,
            in_step=request.identity.packed,
            one_row=settings.pack_sequences and in_one_row(backbone.model),
        ),
        settings,
        total_steps=0 if nothing_to_train else method.training_steps,
        loss=data.loss,
        workers=workers,
        probe=None if data.components is None else component_probe(data.components),
        observer=observer,
    )
    return trainer


def _pause(request: CellRequest, trainer: Trainer) -> int | None:
    """Where the training pauses; None if it goes on to its end, as one that is beyond the pause already."""
    step = request.pause_at
    return None if step is None or not trainer.step <= step < trainer.total_steps else step


def _add_rung(request: CellRequest, workspace: Workspace, trainer: Trainer) -> None:
    rows = len(workspace.data.compared_on)
    if (trainer.step, rows) not in {(rung.step, rung.rows) for rung in load_rungs(request.folder)}:
        trainer.use_average()
        with arithmetic(tf32=False, deterministic=trainer.settings.deterministic):
            rung = Validator(request, workspace, trainer.method).rung(trainer.step, trainer.record.seconds)
        add_rung(request.folder, rung)


def _start_or_resume(trainer: Trainer, folder: Path) -> None:
    """Resumes the checkpoint that rank 0 reads from `folder`, in all workers alike; starts afresh if there is none."""
    saved = Checkpoint.load(folder) if trainer.workers.leads else None
    share = Share({}, None) if saved is None else Share(saved.tensors, saved.meta)
    first, *_ = trainer.workers.collect(0, share)
    if first.meta is None:
        trainer.start()
    else:
        trainer.resume(Checkpoint(first.tensors, first.meta))


@dataclass(frozen=True)
class _Seconds:
    """Time spent outside the training."""

    start: float
    evaluation: float


def _cost(
    trainer: Trainer, plan: Plan, flops_per_token: float, seconds: _Seconds, device: str, workers: list[WorkerCost]
) -> Cost:
    record, work = trainer.record, trainer.record.work
    flops = work.padded_tokens * flops_per_token * plan.backbone_passes
    return Cost(
        start_seconds=seconds.start,
        train_seconds=record.seconds,
        evaluation_seconds=seconds.evaluation,
        train_flops=flops + 6.0 * work.adapter_token_parameters,
        steps=trainer.step,
        lane_passes=work.lane_passes,
        tokens=work.tokens,
        peak_parameters=record.peak_parameters,
        peak_memory_bytes=peak_memory(device),
        workers=len(workers),
        per_worker=tuple(workers),
        side_by_side=trainer.passes.side_by_side(trainer) if isinstance(trainer, PackedTrainer) else 1,
    )


def _with_training_of(parent: Cost, own: Cost) -> Cost:
    """The parent's training with this cell's own start, evaluation and memory."""
    names = ("start_seconds", "evaluation_seconds", "peak_memory_bytes")
    return parent.model_copy(update={name: getattr(own, name) for name in names})


def _result(
    request: CellRequest, workspace: Workspace, trainer: Trainer, points: tuple[Point, ...], cost: Cost
) -> CellResult:
    record, budget = trainer.record, request.identity.budget or 0
    return CellResult(
        id=request.id,
        identity=request.identity,
        metric=workspace.data.metric,
        points=points,
        train_loss=tuple(record.losses),
        growth=tuple(record.growth),
        budget_remainder=budget - points[0].parameters if trainer.method.budgeted else 0,
        cost=cost,
        versions=_versions(workspace.device),
    )


def _versions(device: str) -> dict[str, str]:
    hardware = {"accelerator": accelerator_name(device), "python": platform.python_version()}
    return hardware | {name: version(name) for name in _LIBRARIES}
