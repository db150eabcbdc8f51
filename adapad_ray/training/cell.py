"""One cell from its identity to its record: train, evaluate every deployable model, export, write the result."""

from __future__ import annotations

import platform
import resource
import shutil
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from adapad_ray.adapters.export import deployed_adapter, save_peft
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.budget import ModuleShape
from adapad_ray.files import atomic_path, write_text
from adapad_ray.methods import METHODS
from adapad_ray.methods.base import Deployable, Method, Setting
from adapad_ray.models import Backbone, initialise_head, target_modules
from adapad_ray.results import CellIdentity, CellResult, Cost, Point
from adapad_ray.tasks import TaskData
from adapad_ray.tasks.metrics import compute_metrics
from adapad_ray.training.checkpoint import Checkpoint
from adapad_ray.training.evaluation import predict
from adapad_ray.training.loop import DivergedError, LaneTrainer, Progress
from adapad_ray.training.randomness import derive_seed
from adapad_ray.training.settings import TrainingSettings

_LIBRARIES = ("adapad-ray", "torch", "transformers", "peft", "numpy", "safetensors", "ray")


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
    ids = split.batch(rows, pad_token_id=0)["input_ids"].to(next(model.parameters()).device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids)  # without a mask, whose values a model on the meta device would ask for
    return float(counter.get_total_flops() / ids.numel())


def make_method(identity: CellIdentity, modules: tuple[ModuleShape, ...], train_examples: int) -> Method[Any]:
    """The method of a cell, configured for its budget, seed and number of steps."""
    cls = METHODS[identity.method]
    settings = TrainingSettings(**identity.training)
    setting = Setting(modules, identity.budget, settings.total_steps(train_examples), identity.seed)
    return cls(cls.Config(**identity.config), setting)


def run_cell(
    cell_id: str,
    identity: CellIdentity,
    workspace: Workspace,
    folder: Path,
    *,
    base_model: str,
    checkpoint_seconds: float = 60.0,
    progress: Progress | None = None,
) -> CellResult:
    """Computes one cell and writes `result.json`, predictions and adapters to `folder`; resumes from its checkpoint.

    The tune stage never reads the test split and exports nothing. `result.json` is written last and atomically: a cell
    that has one is finished.

    Raises:
        BadRequestError: the method cannot be built as asked; nothing was written.
        DivergedError: training produced a value that is not finite.
    """
    called = time.perf_counter()
    settings = TrainingSettings(**identity.training)
    backbone, data = workspace.backbone, workspace.data
    train, modules = data.splits["train"], workspace.shapes(identity.target_modules)
    method = make_method(identity, modules, len(train))
    method.plan()  # refuses what cannot be built
    flops_per_token = workspace.forward_flops_per_token  # before adapters hang on the backbone, or theirs would count
    initialise_head(backbone.model, backbone.head_modules, derive_seed(identity.seed, "head"))
    adapted = AdaptedModel(
        backbone.model,
        modules,
        backbone.head_modules,
        scales=method.scales(),
        dropout=method.config.dropout,
    )
    try:
        trainer = LaneTrainer(
            adapted,
            method,
            train,
            settings,
            total_steps=settings.total_steps(len(train)),
            seed=identity.seed,
            pad_token_id=backbone.tokenizer.pad_token_id,
            device=workspace.device,
        )
        checkpoint = folder / "checkpoint"
        saved = Checkpoint.load(checkpoint)
        if saved is None:
            trainer.start()
        else:
            trainer.resume(saved)
        started = time.perf_counter()
        record = trainer.run(checkpoint=checkpoint, checkpoint_seconds=checkpoint_seconds, progress=progress)
        trained = time.perf_counter()
        predictions: dict[str, np.ndarray] = {}
        splits = ["validation"] if identity.stage == "tune" else ["validation", "test"]
        points = tuple(
            _evaluate(d, adapted, workspace, settings, splits, predictions, folder, cell_id, identity, base_model)
            for d in _worth_deploying(method.deployables(), adapted)
        )
        backward = 2 if method.budgeted else 1
        flops = record.padded_tokens * flops_per_token * backward
        result = CellResult(
            id=cell_id,
            identity=identity,
            metric=data.metric,
            points=points,
            train_loss=tuple(record.losses),
            growth=tuple(record.growth),
            budget_remainder=(identity.budget or 0) - points[0].parameters if method.budgeted else 0,
            cost=Cost(
                start_seconds=started - called,
                train_seconds=record.seconds,
                evaluation_seconds=time.perf_counter() - trained,
                train_flops=flops + 6.0 * record.adapter_token_parameters,
                steps=trainer.step,
                lane_passes=record.lane_passes,
                tokens=record.tokens,
                peak_parameters=record.peak_parameters,
                peak_memory_bytes=_peak_memory(workspace.device),
            ),
            versions=_versions(),
        )
    finally:
        adapted.detach()
    for split in splits:
        predictions[f"{split}/labels"] = data.splits[split].labels.astype(np.int64)
    with atomic_path(folder / "predictions.safetensors") as scratch:
        save_file(predictions, scratch)
    write_text(folder / "result.json", result.model_dump_json(indent=1))
    shutil.rmtree(checkpoint, ignore_errors=True)
    return result


def _worth_deploying(deployables: list[Deployable], adapted: AdaptedModel) -> list[Deployable]:
    """The final model and those prefixes that really are smaller."""
    sizes = [adapted.acting_parameters(d.lane) for d in deployables]
    return [d for i, d in enumerate(deployables) if i == 0 or 0 < sizes[i] < sizes[0]]


def _evaluate(
    deployable: Deployable,
    adapted: AdaptedModel,
    workspace: Workspace,
    settings: TrainingSettings,
    splits: list[str],
    predictions: dict[str, np.ndarray],
    folder: Path,
    cell_id: str,
    identity: CellIdentity,
    base_model: str,
) -> Point:
    adapted.use(deployable.lane)
    kind = "final" if deployable.prefix is None else "prefix"
    key = kind if deployable.prefix is None else f"{kind}-{deployable.prefix}"
    metrics: dict[str, dict[str, float]] = {}
    for split in splits:
        logits = predict(
            adapted.model,
            workspace.data.splits[split],
            batch_size=settings.evaluation_batch_size,
            pad_token_id=workspace.backbone.tokenizer.pad_token_id,
            device=workspace.device,
        )
        predictions[f"{split}/{key}"] = logits
        try:
            metrics[split] = compute_metrics(workspace.data.metric, logits, workspace.data.splits[split].labels)
        except FloatingPointError as error:  # the last step broke it: no later loss could tell
            steps = settings.total_steps(len(workspace.data.splits["train"]))
            raise DivergedError(f"lane {deployable.lane.index}, step {steps - 1}: {error}") from error
    adapter = deployed_adapter(adapted, deployable.lane)
    place = None
    if identity.stage == "curve" and adapter.factors:
        place = "adapter" if deployable.prefix is None else key
        provenance = {
            "cell": cell_id,
            "point": key,
            "model": base_model,
            "model_digest": workspace.backbone.digest,
            "pooling": workspace.backbone.pooling,
            "labels": list(workspace.data.label_names),
            "parameters": adapter.parameters,
            "scaling_folded_into_B": adapted.layers[next(iter(adapter.factors))].scaling,
        }
        save_peft(adapter, folder / place, base_model=base_model, provenance=provenance)
    return Point(
        kind=kind,  # type: ignore[arg-type]
        prefix=deployable.prefix,
        parameters=adapter.parameters,
        head_parameters=adapted.head_parameters(),
        ranks=adapter.ranks,
        validation=metrics["validation"],
        test=metrics.get("test", {}),
        adapter=place,
    )


def _peak_memory(device: str) -> int:
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: version(name) for name in _LIBRARIES}
