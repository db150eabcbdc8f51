"""The training of a cell inside a loop that is not ours: batches come from outside, and so does the call to step.

The loop computes `loss_of(batch)`, calls `backward` on it, and then `take_step`, as with any model and optimizer. All
lanes of a step read the same published estimates and share no parameter, so it does not matter that their gradients
are computed one after another before the first of them is updated: the result is that of `Trainer.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adapad_ray.adapters.lane import Lane
from adapad_ray.methods.base import Method
from adapad_ray.tasks.losses import Loss, cross_entropy
from adapad_ray.training.batches import Batch, Batches
from adapad_ray.training.passes.gradient_checkpointing import recomputed_layers
from adapad_ray.training.randomness import generator
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.trainer import Trainer


class OutsideBatches(Batches):
    """Batches that the caller's loop draws; training knows their seed and their device only."""

    def __init__(self, seed: int, device: torch.device | str) -> None:
        self.seed, self.device = seed, device


class OutsideLoop(Trainer):
    """Trains the lanes of a method whose model is adapted already, one step at a time.

    Args:
        total_steps: the steps that the loop will take: schedule and growth depend on them.
        loss: one value per example; None for the model's own, which it computes from `labels` among its inputs.

    Raises:
        BadRequestError: settings and method exclude each other.
    """

    def __init__(
        self,
        method: Method[Any],
        settings: TrainingSettings,
        *,
        total_steps: int,
        seed: int,
        device: torch.device | str,
        loss: Loss | None,
    ) -> None:
        batches = OutsideBatches(seed, device)
        super().__init__(method, batches, settings, total_steps=total_steps, loss=loss or cross_entropy)
        self._model_has_loss = loss is None
        self._sizes: list[tuple[int, int]] = []
        self._losses: dict[int, list[Tensor]] = {}
        """Position of a lane → its losses since the last step: one for each batch whose gradients are added."""

    def loss_of(self, batch: Batch) -> Tensor:
        """The loss, summed over the lanes of this step; its backward pass adds the gradients of all of them.

        Gradients are computed at once, lane by lane, so that one lane's activations are in memory at a time.
        """
        lanes = list(self.method.lanes(self.step))
        parameters = [p for lane in lanes for p in self.adapted.parameters(lane)]
        if len(set(parameters)) < len(parameters):
            raise NotImplementedError(f"{self.method.name} trains a parameter in two lanes of one step")
        loss: Tensor = _Lanes.apply(  # type: ignore[no-untyped-call]
            lambda: self._gradients(lanes, parameters, batch), *parameters
        )
        return loss

    def take_step(self) -> None:
        """One optimizer step of every lane, and what ends a round or the training where it is time.

        Raises:
            DivergedError: a loss, gradient or parameter is not finite; found when its round ends.
            RuntimeError: all steps are done, or no loss has been computed since the last one.
        """
        if self.step >= self.total_steps:
            raise RuntimeError(f"the adapter was attached for {self.total_steps} steps, and all are done")
        if not self._losses:
            raise RuntimeError("there is no loss to step on: call the model in training mode, and backward on its loss")
        lanes = list(self.method.lanes(self.step))
        held = [[p.grad for p in self.adapted.parameters(lane)] for lane in lanes]
        size = sum(own for own, _ in self._sizes), sum(padded for _, padded in self._sizes)
        self.optimizer.begin_step(self.step, self.method.phase(self.step))
        self._counts.losses[self.step] = {}
        for position, (lane, gradients) in enumerate(zip(lanes, held, strict=True)):
            self.optimizer.clear_gradients()
            parameters = self.adapted.parameters(lane)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            loss = torch.stack(self._losses[position]).mean()
            self._passes.add(self._update(position, lane, size, loss))
        self._sizes, self._losses = [], {}
        self.record.peak_parameters = max(self.record.peak_parameters, self.adapted.adapter_parameters())
        self.step += 1
        if self.step % self.method.local_steps == 0 or self.step == self.total_steps:
            self._read_passes(self._largest_parameters())
            self._end_round(None)
        if self.step == self.total_steps:
            self.method.finish()

    def _gradients(
        self, lanes: Sequence[Lane], parameters: Sequence[nn.Parameter], batch: Batch
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The summed loss of the lanes, and the gradient of every parameter; those that stand there are left alone."""
        before = [p.grad for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        with recomputed_layers(self.adapted.model, self.settings.gradient_checkpointing):
            losses = [self.add_gradients(lane, batch, len(batch.labels)).detach() for lane in lanes]
        gradients = [p.grad for p in parameters]
        for parameter, gradient in zip(parameters, before, strict=True):
            parameter.grad = gradient
        for position, loss in enumerate(losses):
            self._losses.setdefault(position, []).append(loss)
        self._sizes.append(batch.size)
        return torch.stack(losses).sum(), gradients

    def dropout(self, lane: Lane) -> torch.Generator:
        earlier = len(self._sizes)
        if not earlier:
            return super().dropout(lane)
        key = (self.step, lane.index, earlier)
        return generator(self.batches.seed, "dropout", *key, device=self.batches.device)

    def _loss_of(self, lane: Lane, batch: Batch, batch_size: int) -> Tensor:
        if not self._model_has_loss:
            return super()._loss_of(lane, batch, batch_size)
        loss: Tensor = self.adapted.model(**batch.inputs, labels=batch.labels).loss
        return loss


class _Lanes(torch.autograd.Function):
    """A loss whose gradients are computed in the forward pass already, and are handed out in the backward pass."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[[], tuple[Tensor, list[Tensor | None]]], *parameters: Tensor) -> Tensor:
        with torch.enable_grad():
            loss, ctx.gradients = compute()
        return loss

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = upstream
        return None, *(None if g is None else g * scale for g in ctx.gradients)
