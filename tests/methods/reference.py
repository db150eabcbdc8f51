"""Training as anybody would write it: a model, torch's AdamW and gradient clipping, the tiny task's batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from adapad_ray.models import initialise_head
from adapad_ray.models.target_modules import target_modules
from adapad_ray.results import CellIdentity
from adapad_ray.testing import TRAINING, MethodCase, tiny_backbone, tiny_task
from adapad_ray.training.batches import epoch_batches
from adapad_ray.training.randomness import derive_seed
from adapad_ray.training.trainer import Trainer

SQUARE = tuple(
    shape.name
    for shape in target_modules(tiny_backbone().model, "all-linear")
    if shape.in_features == shape.out_features == 32
)
STEPS = 15
WARMUP = 1
"""Steps of the learning rate's rise, from the default share of 0.06."""


class SquareCase(MethodCase):
    """Adapters on the eight 32 x 32 modules of the tiny backbone alone: components all cost the same, 64."""

    def identity(self, seed: int = 0, **changes: Any) -> CellIdentity:
        return super().identity(seed, **{"target_modules": SQUARE, **changes})


def backbone_with_head() -> nn.Module:
    """The tiny backbone, its head initialised as a cell of seed 0 does it."""
    backbone = tiny_backbone()
    initialise_head(backbone.model, backbone.head_modules, derive_seed(0, "head"))
    return backbone.model


def train(model: Any, *, learning_rate: float, after_step: Callable[[int], None] = lambda step: None) -> list[float]:
    """Trains what requires a gradient for 15 steps on the loss that `model` returns; gives the loss of every step.

    `after_step` is called with the number of steps done, before the gradients are cleared.
    """
    split = tiny_task().splits["train"]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    losses = []
    for step in range(STEPS):
        rows = epoch_batches(0, step // 6, split.lengths, TRAINING["batch_size"], group_by_length=True)[step % 6]
        loss = model(**split.batch(rows, pad_token_id=0)).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate * (1 if step < WARMUP else (STEPS - step) / (STEPS - WARMUP))
        optimizer.step()
        after_step(step + 1)
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def frozen_gradients(trainer: Trainer, step: int) -> dict[str, torch.Tensor]:
    """Module → the loss gradient `[d_out, d_in]` of its frozen weight in the reserve lane at `step`, by autograd.

    Removes the probes.
    """
    adapted = trainer.adapted
    lane = next(lane for lane in trainer.method.lanes(step) if lane.reserve)
    adapted.use(lane)
    weights = {name: layer.base.weight.requires_grad_(True) for name, layer in adapted.layers.items()}
    for layer in adapted.layers.values():
        layer.reserve = None  # then a layer calls its base, which autograd sees
    batch = trainer.batches.load(trainer.batches.rows(step))
    loss = torch.nn.functional.cross_entropy(adapted.model(**batch.inputs).logits, batch.labels)
    gradients = torch.autograd.grad(loss, list(weights.values()))
    for weight in weights.values():
        weight.requires_grad_(False)
    return dict(zip(weights, gradients, strict=True))
