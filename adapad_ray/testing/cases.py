"""One configuration of a method, and the trainings of it that tests share."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adapad_ray.adapters.load import load_adapter
from adapad_ray.budget import ModuleShape
from adapad_ray.methods import METHODS, Method
from adapad_ray.models import Backbone, Pooling, initialise_head
from adapad_ray.models.target_modules import target_modules
from adapad_ray.results import CellIdentity, CellResult, Precision
from adapad_ray.testing.tiny import (
    COST_PER_RANK,
    TRAINING,
    Architecture,
    shared_backbone,
    tiny_backbone,
    tiny_task,
    tiny_workspace,
)
from adapad_ray.training.batches import Batches
from adapad_ray.training.cell import CellRequest, Workspace, make_method, parent_identity, run_cell
from adapad_ray.training.packs import PackedTrainer, SharedPasses
from adapad_ray.training.randomness import derive_seed
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.trainer import Trainer


@dataclass(frozen=True, eq=False)
class MethodCase:
    """A method with its settings and budget, to be trained on `tiny_backbone` and `tiny_task`."""

    method: str
    budget: int | None = 2 * COST_PER_RANK
    config: Mapping[str, Any] = field(default_factory=dict)
    impossible: Mapping[str, Any] | None = None
    """Settings that request a rank above a dimension (32 here), where the method has such settings."""
    pooling: Pooling = "mean"
    architecture: Architecture = "bert"
    precision: Precision = "full"
    training: Mapping[str, Any] = field(default_factory=dict)
    """Training settings that differ from `TRAINING`."""
    slots_per_pass: int = 1
    """Above 1: lanes share passes."""

    def __str__(self) -> str:
        settings = [f"{key}={value}" for key, value in {**self.config, **self.training}.items()]
        settings += [f"{self.slots_per_pass} slots"] * (self.slots_per_pass > 1)
        return " ".join([self.method, str(self.budget), self.tiny_model, *settings])

    @property
    def tiny_model(self) -> str:
        """The model's architecture, or BERT's pooling."""
        return self.pooling if self.architecture == "bert" else self.architecture

    def backbone(self) -> Backbone:
        """A new backbone."""
        return tiny_backbone(self.pooling, self.architecture, self.precision)

    def workspace(self) -> Workspace:
        """A new backbone with `tiny_task`."""
        return tiny_workspace(self.pooling, self.architecture, self.precision)

    @property
    def limit(self) -> int:
        """Most parameters that may be deployed: the budget, or the planned number where there is none."""
        return self.make().plan().parameters if self.budget is None else self.budget

    def identity(self, seed: int = 0, **changes: Any) -> CellIdentity:
        """The identity of this case's cell; `changes` replace fields of it."""
        names = tuple(m.name for m in _shapes(self.pooling, self.architecture))
        fields: dict[str, Any] = {
            "stage": "curve",
            "label": self.method,
            "method": self.method,
            "method_version": METHODS[self.method].version,
            "config": METHODS[self.method].Config(**self.config).model_dump(),
            "training": TrainingSettings(**{**TRAINING, **self.training}).model_dump(),
            "model": "tiny",
            "model_digest": "",
            "task": "tiny",
            "data_digest": "",
            "target_modules": names,
            "budget": self.budget,
            "seed": seed,
            "dtype": "float32",
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "packed": self.slots_per_pass > 1,
        }
        return CellIdentity(**{**fields, **changes})

    def make(self, **changes: Any) -> Method[Any]:
        """The method of this case; `changes` replace fields of its identity."""
        return self._method(self.identity(**changes))

    def trainer(self, seed: int = 0, device: str = "cpu", backbone: Backbone | None = None, **options: Any) -> Trainer:
        """A trainer on `backbone`, by default a new one, set up as in `run_cell` but not started; `options` are passed
        on to it."""
        backbone, method = backbone or self.backbone(), self.make(seed=seed)
        parent = self.parent(self.identity(seed))
        if parent is not None:
            method.inherit(load_adapter(parent / "adapter"))
        initialise_head(backbone.model, backbone.head_modules, derive_seed(seed, "head"))
        backbone.model.to(device)
        method.adapt(backbone.model, backbone.head_modules)
        settings = TrainingSettings(**{**TRAINING, **self.training})
        batches = Batches(tiny_task().splits["train"], settings, seed=seed, pad_token_id=0, device=device)
        options["total_steps"] = method.training_steps
        if self.slots_per_pass > 1:
            options.setdefault("passes", SharedPasses(self.slots_per_pass))
        if "passes" in options:
            return PackedTrainer(method, batches, settings, **options)
        return Trainer(method, batches, settings, **options)

    def run(self, folder: Path, workspace: Workspace | None = None, seed: int = 0, **changes: Any) -> CellResult:
        """Computes this case's cell in `folder`."""
        workspace, identity = workspace or self.workspace(), self.identity(seed, **changes)
        parent = self.parent(identity)
        request = CellRequest("cell", identity, folder, "tiny", parent, slots_per_pass=self.slots_per_pass)
        result = run_cell(request, workspace)
        assert result is not None
        return result

    def parent(self, identity: CellIdentity) -> Path | None:
        """Folder of the trained parent that a post-hoc method cuts; None where the method trains its own adapter."""
        trained = parent_identity(identity, self._method(identity))
        if trained is None:
            return None
        return Path(_trained_parent(trained.model_dump_json(), self.pooling, self.architecture).name)

    def _method(self, identity: CellIdentity) -> Method[Any]:
        shapes = {shape.name: shape for shape in _shapes(self.pooling, self.architecture)}
        modules = tuple(shapes[name] for name in identity.target_modules)
        parameters = shared_backbone(self.pooling, self.architecture).parameters
        return make_method(identity, modules, len(tiny_task().splits["train"]), parameters)


@functools.cache
def uninterrupted(case: MethodCase) -> Trainer:
    """The case trained from start to end in one go; tests share it and must not change it."""
    trainer = case.trainer()
    trainer.start()
    trainer.run()
    return trainer


def finished(case: MethodCase) -> tuple[CellResult, Path]:
    """The record of the case's cell and its folder; tests share both and must not change them."""
    result, folder = _finished(case)
    return result, Path(folder.name)


@functools.cache
def _finished(case: MethodCase) -> tuple[CellResult, tempfile.TemporaryDirectory[str]]:
    folder = tempfile.TemporaryDirectory(prefix="adapad-cell-")
    return case.run(Path(folder.name)), folder


@functools.cache
def _trained_parent(identity: str, pooling: Pooling, architecture: Architecture) -> tempfile.TemporaryDirectory[str]:
    """The finished cell with this identity (as JSON)."""
    folder = tempfile.TemporaryDirectory(prefix="adapad-parent-")
    parent = CellIdentity.model_validate_json(identity)
    run_cell(CellRequest("parent", parent, Path(folder.name), "tiny"), tiny_workspace(pooling, architecture))
    return folder


@functools.cache
def _shapes(pooling: Pooling, architecture: Architecture) -> tuple[ModuleShape, ...]:
    return target_modules(shared_backbone(pooling, architecture).model, "all-linear")
