"""What tests compare: logits, weights, states of trainers, and the files of cells."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from adapad_ray.adapters.trainable_model import TrainableModel
from adapad_ray.models import Backbone, Pooling, initialise_head
from adapad_ray.results import CellResult, Point
from adapad_ray.storage import RECORD
from adapad_ray.testing.tiny import Architecture, tiny_backbone, tiny_task
from adapad_ray.training.cell.evaluation import predict
from adapad_ray.training.randomness import derive_seed
from adapad_ray.training.trainer import Trainer


def assert_same_training(got: Trainer, expected: Trainer) -> None:
    """Checks that both trainers hold bitwise the same tensors, optimizer state, losses and growth."""
    a, b = got.checkpoint(), expected.checkpoint()
    assert a.tensors.keys() == b.tensors.keys()
    different = [name for name in a.tensors if not torch.equal(a.tensors[name], b.tensors[name])]
    assert not different, f"{len(different)} tensors differ, {different[0]} first"
    for record in (a.meta["record"], b.meta["record"]):
        record.pop("seconds")
    assert a.meta == b.meta


def logits(model: Any) -> np.ndarray:
    """Predictions of `model` on the test split of `tiny_task`, `[24, 2]`."""
    return predict(model, tiny_task().splits["test"], batch_size=64, pad_token_id=0)


@functools.cache
def untouched_logits(pooling: Pooling, architecture: Architecture = "bert") -> np.ndarray:
    """Logits of the bare backbone with the head as a cell of seed 0 initialises it."""
    plain = tiny_backbone(pooling, architecture)
    initialise_head(plain.model, plain.head_modules, derive_seed(0, "head"))
    return logits(plain.model)


def trained_groups(adapted: TrainableModel) -> dict[str, list[torch.nn.Parameter]]:
    """Everything that has been trained, by adapted module or head."""
    groups: dict[str, list[torch.nn.Parameter]] = {}
    for name, parameter in adapted.named_parameters().items():
        groups.setdefault(name.partition("|")[0], []).append(parameter)
    return groups


@contextmanager
def zeroed(adapted: TrainableModel, parameters: list[torch.nn.Parameter]) -> Iterator[None]:
    """Sets `parameters` to zero and publishes all components; restores every value afterwards."""
    before = {name: tensor.clone() for name, tensor in adapted.state().items()}
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
        adapted.publish()
    try:
        yield
    finally:
        adapted.load_state(before)


def backbone_weights(backbone: Backbone) -> dict[str, Tensor]:
    """Copies of all weights but the head's, which every cell initialises from its seed."""
    head = backbone.head_modules
    return {k: v.clone() for k, v in backbone.model.state_dict().items() if k.rpartition(".")[0] not in head}


def adapter_tensors(folder: Path, point: Point) -> dict[str, Tensor]:
    """The tensors of a point's exported PEFT adapter; none where it has no adapter."""
    return {} if point.adapter is None else load_file(folder / point.adapter / "adapter_model.safetensors")


def compact_tensors(folder: Path, point: Point) -> dict[str, Tensor]:
    """The tensors of a point's adapter in its family's own form; none where that form is LoRA's."""
    if point.adapter is None:
        return {}
    family = json.loads((folder / point.adapter / "adapad.json").read_text())["family"]
    path = folder / point.adapter / f"{family}.safetensors"
    return load_file(path) if path.exists() else {}


def lasting(result: CellResult) -> dict[str, Any]:
    """A result without times and memory."""
    content = result.model_dump()
    for name in ("start_seconds", "train_seconds", "evaluation_seconds", "peak_memory_bytes", "per_worker"):
        content["cost"].pop(name)
    return content


def predictions(folder: Path) -> bytes:
    """The file of a cell's predictions."""
    return (folder / "predictions.safetensors").read_bytes()


def files(folder: Path) -> dict[str, bytes]:
    """Relative path → content of all files of a cell, except those that hold times: its record and its rounds."""
    timed = (folder / RECORD, folder / "rounds")
    paths = (p for p in sorted(folder.rglob("*")) if p.is_file() and p not in timed and p.parent not in timed)
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}
