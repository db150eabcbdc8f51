"""One cell from its identity to its record: train, evaluate every deployable model, export, write the result."""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from adapad_ray.adapters.export import DeployedAdapter, deployed_adapter, save_peft
from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.load import load_adapter
from adapad_ray.adapters.trainable_model import TrainableModel
from adapad_ray.budget import ModuleShape
from adapad_ray.errors import BadRequestError
from adapad_ray.files import atomic_path, write_text
from adapad_ray.methods import METHODS
from adapad_ray.methods.base import Method
from adapad_ray.methods.plan import CellContext, Deployable
from adapad_ray.models import Backbone, initialise_head
from adapad_ray.models.target_modules import target_modules
from adapad_ray.results import CellIdentity, CellResult, Cost, Point
from adapad_ray.storage import CHECKPOINT, RECORD
from adapad_ray.tasks import TYPES, TaskData
from adapad_ray.training.checkpoint import Checkpoint
from adapad_ray.training.component_errors import COMPONENT_ERRORS, component_probe, write_component_errors
from adapad_ray.training.evaluation import ModelPasses
from adapad_ray.training.randomness import derive_seed
from adapad_ray.training.record import RoundObserver, RoundStats
from adapad_ray.training.round_log import RoundLog
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.trainer import DivergedError, LaneTrainer, Progress
from adapad_ray.training.workers import Alone, Exchange, Replicas, Share

_LIBRARIES = ("adapad-ray", "torch", "transformers", "peft", "numpy", "safetensors", "ray")


_WITHOUT_FLOPS = {"labels", "attention_mask", "token_type_ids", "position_ids"}


def shape_inputs(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs that determine the operations of a pass. Models on the meta device would read a mask's values."""
    return {name: value for name, value in batch.items() if name not in _WITHOUT_FLOPS}


@dataclass(frozen=True)
class Workspace:
    """What a group keeps between cells: the frozen backbone and the tokenised data."""

    backbone: Backbone
    data: TaskData
    device: str = "cpu"

    @cached_property
    def forward_flops_per_token(self) -> float:
        """Floating-point operations of one forward pass of the bare backbone, per token."""
        return forward_flops_per_token(self.backbone.model, self.data)

    def shapes(self, names: tuple[str, ...]) -> tuple[ModuleShape, ...]:
        """Shapes of the modules with these full paths."""
        return target_modules(self.backbone.model, names)


def forward_flops_per_token(model: nn.Module, data: TaskData) -> float:
    """Floating-point operations of a forward pass, per padded token, as torch counts them; also on the meta device."""
    split = data.splits["train"]
    rows = np.arange(min(8, len(split)))
    batch, device = split.batch(rows, pad_token_id=0), next(model.parameters()).device
    inputs = {name: value.to(device) for name, value in shape_inputs(batch).items()}
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(**inputs)
    return float(counter.get_total_flops() / split.size_of(batch)[1])


def make_method(
    identity: CellIdentity, modules: tuple[ModuleShape, ...], train_examples: int, backbone_parameters: int
) -> Method[Any]:
    """The method of a cell, configured for its budget, seed and number of steps."""
    cls = METHODS[identity.method]
    settings = TrainingSettings(**identity.training)
    steps = settings.total_steps(train_examples)
    context = CellContext(modules, identity.budget, steps, identity.seed, backbone_parameters)
    return cls(cls.Config(**identity.config), context)


def parent_identity(identity: CellIdentity, method: Method[Any]) -> CellIdentity | None:
    """The cell whose adapter a post-hoc method cuts: the same data, modules, training and seed as the cell's own."""
    parent = method.parent()
    if parent is None:
        return None
    changes = {
        "stage": "parent",
        "method": parent.method,
        "method_version": METHODS[parent.method].version,
        "config": parent.config.model_dump(mode="json"),
        "budget": parent.budget,
        "parent": None,
    }
    return identity.model_copy(update=changes)


def run_cell(
    cell_id: str,
    identity: CellIdentity,
    workspace: Workspace,
    folder: Path,
    *,
    base_model: str,
    checkpoint_seconds: float = 60.0,
    checkpoint_rounds: int | None = None,
    progress: Progress | None = None,
    exchange: Exchange | None = None,
    observer: RoundObserver | None = None,
    parent: Path | None = None,
) -> CellResult | None:
    """Computes one cell and writes `result.json`, predictions and adapters to `folder`; resumes from its checkpoint.

    Only the curve reads the test split, and the tune stage exports nothing. `result.json` is written last and
    atomically: a cell that has one is finished. Several workers call this side by side with their ends of one
    `exchange`; each keeps its rounds in `folder`, rank 0 evaluates and writes, the others return None. A post-hoc
    method cuts the adapter in the finished cell's folder `parent`.

    Raises:
        BadRequestError: the method cannot be built as asked; nothing was written.
        DivergedError: training produced a value that is not finite.
        AttemptLostError: another worker of this cell is gone.
    """
    called = time.perf_counter()
    exchange = exchange or Alone()
    settings = TrainingSettings(**identity.training)
    backbone, data = workspace.backbone, workspace.data
    train, modules = data.splits["train"], workspace.shapes(identity.target_modules)
    method = make_method(identity, modules, len(train), backbone.parameters)
    plan = method.plan()  # raises where the method cannot be built
    check_workers(method, exchange.workers)
    inherited = _inherit(method, parent)
    flops_per_token = workspace.forward_flops_per_token  # before adapters hang on the backbone, or theirs would count
    initialise_head(backbone.model, backbone.head_modules, derive_seed(identity.seed, "head"))
    adapted = method.adapt(backbone.model, backbone.head_modules)
    log = RoundLog(folder, exchange.rank)

    def note(stats: RoundStats) -> None:
        log(stats)
        if observer is not None:
            observer(stats)

    try:
        trainer = LaneTrainer(
            adapted,
            method,
            train,
            settings,
            total_steps=0 if plan.trains_head_only and not backbone.head_modules else method.training_steps,
            seed=identity.seed,
            pad_token_id=backbone.pad_token_id,
            device=workspace.device,
            loss=data.loss,
            probe=None if data.components is None else component_probe(data.components),
            exchange=exchange if method.parallel == "components" else None,
            replicas=Replicas(exchange.rank, exchange.workers) if method.parallel == "data" else None,
            observer=note,
        )
        checkpoint = folder / CHECKPOINT
        saved = _latest_checkpoint(checkpoint, exchange)
        if saved is None:
            trainer.start()
        else:
            trainer.resume(saved)
        log.rewind(trainer.estimates.newest, exchange.workers)
        started = time.perf_counter()
        record = trainer.run(
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            checkpoint_rounds=checkpoint_rounds,
            progress=progress,
        )
        everyone = exchange.gather(trainer.estimates.newest + 1, Share({}, {"cost": log.cost}))
        if exchange.rank > 0:
            return None
        trained = time.perf_counter()
        evaluation = _Evaluation(cell_id, identity, workspace, adapted, settings, folder, base_model)
        points = tuple(evaluation.point(d) for d in _worth_deploying(method.deployables(), adapted))
        flops = record.work.padded_tokens * flops_per_token * plan.backbone_passes
        cost = Cost(
            start_seconds=started - called,
            train_seconds=record.seconds,
            evaluation_seconds=time.perf_counter() - trained,
            train_flops=flops + 6.0 * record.work.adapter_token_parameters,
            steps=trainer.step,
            lane_passes=record.work.lane_passes,
            tokens=record.work.tokens,
            peak_parameters=record.peak_parameters,
            peak_memory_bytes=_peak_memory(workspace.device),
            workers=exchange.workers,
            per_worker=tuple(share.meta["cost"] for share in everyone),
        )
        result = CellResult(
            id=cell_id,
            identity=identity,
            metric=data.metric,
            points=points,
            train_loss=tuple(record.losses),
            growth=tuple(record.growth),
            budget_remainder=(identity.budget or 0) - points[0].parameters if method.budgeted else 0,
            cost=cost if inherited is None else _of_parent(cost, inherited.cost),
            versions=_versions(),
        )
    finally:
        adapted.detach()  # first: closing a file on a full disk fails, and the next cell wants the bare backbone
        log.close()
    evaluation.save_predictions()
    write_component_errors(folder / COMPONENT_ERRORS, record.probes, method.local_steps, trainer.total_steps)
    write_text(folder / RECORD, result.model_dump_json(indent=1))
    Checkpoint.remove(checkpoint)
    return result


def _inherit(method: Method[Any], parent: Path | None) -> CellResult | None:
    """Hands a post-hoc method the adapter in its parent's folder; returns the parent's record."""
    if method.parent() is None:
        return None
    if parent is None:
        raise ValueError(f"{method.name} cuts the adapter of another cell: pass that cell's folder")
    method.inherit(load_adapter(parent / "adapter"))
    return CellResult.model_validate_json((parent / RECORD).read_text())


def _of_parent(own: Cost, parent: Cost) -> Cost:
    """The parent's training with this cell's own start, evaluation and memory."""
    mine = {name: getattr(own, name) for name in ("start_seconds", "evaluation_seconds", "peak_memory_bytes")}
    return parent.model_copy(update=mine)


def _latest_checkpoint(folder: Path, exchange: Exchange) -> Checkpoint | None:
    """What rank 0 finds in `folder`, for all ranks: none can go on from another checkpoint than its companions."""
    saved = Checkpoint.load(folder) if exchange.rank == 0 else None
    share = Share({}, {}) if saved is None else Share(saved.tensors, saved.meta)
    found = exchange.gather(0, share)[0]
    return Checkpoint(found.tensors, found.meta) if found.meta else None


def check_workers(method: Method[Any], workers: int) -> None:
    """Refuses more workers than a method can use.

    Raises:
        BadRequestError: the method trains in one worker only.
    """
    if workers > 1 and method.parallel is None:
        raise BadRequestError(
            f"resources.workers is {workers}, but {method.name} as configured trains in one worker: write 1, or give "
            "it a sweep of its own"
        )


def _worth_deploying(deployables: list[Deployable], adapted: TrainableModel) -> list[Deployable]:
    """The final model and those prefixes that really are smaller."""
    sizes = [adapted.deployed_parameters(d.lane) for d in deployables]
    return [d for i, d in enumerate(deployables) if i == 0 or 0 < sizes[i] < sizes[0]]


@dataclass
class _Evaluation:
    """Predicts, scores and exports the deployable models of a trained cell."""

    cell_id: str
    identity: CellIdentity
    workspace: Workspace
    adapted: TrainableModel
    settings: TrainingSettings
    folder: Path
    base_model: str
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    answers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Split and point → the answers as texts, where a task has such."""

    @property
    def splits(self) -> list[str]:
        """The splits that are read; what is settled on validation holds for the tests."""
        tests = [name for name in self.workspace.data.splits if name.startswith("test")]
        return ["validation", *tests] if self.identity.stage == "curve" else ["validation"]

    def point(self, deployable: Deployable) -> Point:
        """One point of the curve."""
        self.adapted.use(deployable.lane)
        kind = "final" if deployable.prefix is None else "prefix"
        key = kind if deployable.prefix is None else f"{kind}-{deployable.prefix}"
        metrics = self._evaluate(key, deployable)
        adapter = deployed_adapter(self.adapted, deployable.lane)
        place = None
        if self.identity.stage != "tune" and adapter.factors:
            place = "adapter" if deployable.prefix is None else key
            provenance = self._provenance(key, adapter, deployable.lane)
            save_peft(adapter, self.folder / place, base_model=self.base_model, provenance=provenance)
        return Point(
            kind=kind,  # type: ignore[arg-type]
            prefix=deployable.prefix,
            parameters=self.adapted.deployed_parameters(deployable.lane),
            head_parameters=self.adapted.head_parameters(),
            ranks=adapter.ranks,
            validation=metrics["validation"],
            test=metrics.get("test", {}),
            adapter=place,
        )

    def _evaluate(self, key: str, deployable: Deployable) -> dict[str, dict[str, float]]:
        """Metrics on validation and test, further tests' among the latter; predictions and answers are kept."""
        data, backbone = self.workspace.data, self.workspace.backbone
        passes = ModelPasses(
            self.adapted.model,
            self.settings.evaluation_batch_size,
            backbone.pad_token_id,
            self.workspace.device,
            backbone.tokenizer,
        )
        try:
            found = TYPES[data.type].evaluate(data, passes, self.splits)
        except FloatingPointError as error:  # the last step broke it: no later loss could tell
            steps = self.settings.total_steps(len(data.splits["train"]))
            raise DivergedError(f"lane {deployable.lane.index}, step {steps - 1}: {error}") from error
        metrics: dict[str, dict[str, float]] = {}
        for split, evaluated in found.items():
            self.predictions[f"{split}/{key}"] = evaluated.predictions
            if evaluated.answers:
                self.answers[f"{split}/{key}"] = evaluated.answers
            if split.startswith("test_"):
                further = split.removeprefix("test_")
                metrics["test"] |= {f"{further}_{name}": value for name, value in evaluated.metrics.items()}
            else:
                metrics[split] = dict(evaluated.metrics)
        return metrics

    def _provenance(self, key: str, adapter: DeployedAdapter, lane: Lane) -> dict[str, Any]:
        return {
            "cell": self.cell_id,
            "point": key,
            "model": self.base_model,
            "model_digest": self.workspace.backbone.digest,
            "pooling": self.workspace.backbone.pooling,
            "auto_class": TYPES[self.workspace.data.type].auto_class,
            "labels": list(self.workspace.data.class_names),
            "family": adapter.family,
            "parameters": adapter.parameters,
            "lora_parameters": adapter.lora_parameters,
            "scaling_folded_into_B": {name: self.adapted.scales[name] * lane.scale for name in adapter.factors},
        }

    def save_predictions(self) -> None:
        """Writes the predictions of every point, and the labels, to the cell's folder; answers beside them as JSON."""
        splits = self.workspace.data.splits
        labels = {f"{split}/labels": splits[split].labels for split in self.splits}
        with atomic_path(self.folder / "predictions.safetensors") as scratch:
            save_file(self.predictions | labels, scratch)
        if self.answers:
            write_text(self.folder / "answers.json", json.dumps(self.answers, ensure_ascii=False, indent=1) + "\n")


def _peak_memory(device: str) -> int:
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}
