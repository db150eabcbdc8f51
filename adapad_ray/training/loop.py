"""The training loop of one cell in one process: lanes, rounds, checkpoints. No Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adapad_ray.adapters.lane import RESERVE, Lane
from adapad_ray.adapters.linear import RowMasks
from adapad_ray.adapters.model import AdaptedModel, Structure
from adapad_ray.methods.base import Method
from adapad_ray.results import GrowthEvent
from adapad_ray.tasks import EncodedSplit
from adapad_ray.training.checkpoint import Checkpoint
from adapad_ray.training.optimizer import ComponentOptimizer
from adapad_ray.training.randomness import derive_seed, epoch_batches, generator
from adapad_ray.training.settings import TrainingSettings

Progress = Callable[[dict[str, Any]], None]


class DivergedError(RuntimeError):
    """A loss or gradient was not finite; says in which lane and at which step. It ends its cell alone."""


@dataclass
class TrainingRecord:
    """What the loop counted."""

    losses: list[float] = field(default_factory=list)
    growth: list[GrowthEvent] = field(default_factory=list)
    lane_passes: int = 0
    tokens: int = 0
    """Non-padding tokens through a forward and backward pass."""
    padded_tokens: int = 0
    """The same with padding: what was computed."""
    adapter_token_parameters: int = 0
    """Σ over passes of tokens × acting adapter parameters, for the FLOP estimate."""
    peak_parameters: int = 0
    seconds: float = 0.0


class LaneTrainer:
    """Trains the lanes that a method names.

    In *exact* mode every lane sees the whole batch, one forward and backward after another. In *interleaved* mode every
    example goes to one lane, chosen by a rotating function of (seed, step, position); the per-lane mean losses are
    added, and a lane without examples is not stepped.
    """

    def __init__(
        self,
        adapted: AdaptedModel,
        method: Method[Any],
        data: EncodedSplit,
        settings: TrainingSettings,
        *,
        total_steps: int,
        seed: int,
        pad_token_id: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.adapted, self.method, self.data, self.settings = adapted, method, data, settings
        self.total_steps, self.seed, self.pad_token_id, self.device = total_steps, seed, pad_token_id, device
        self.optimizer = ComponentOptimizer(settings, total_steps)
        self.record = TrainingRecord()
        self.step = 0
        self._generator = generator(seed, "components")
        self._epoch: tuple[int, list[np.ndarray]] | None = None

    def start(self) -> None:
        """Builds the method's first components."""
        self.method.build(self.adapted, self._generator)
        self._adopt()

    def run(
        self,
        *,
        checkpoint: Path | None = None,
        checkpoint_seconds: float = 60.0,
        stop_at: int | None = None,
        progress: Progress | None = None,
    ) -> TrainingRecord:
        """Trains to the last step (or to `stop_at`), saving to `checkpoint` at the end of a round every so often.

        Raises:
            DivergedError: a loss or gradient is not finite.
        """
        saved = began = time.perf_counter()
        before = self.record.seconds
        end = self.total_steps if stop_at is None else min(stop_at, self.total_steps)
        while self.step < end:
            self._train_step()
            now = time.perf_counter()
            self.record.seconds = before + now - began
            if self.step % self.method.local_steps == 0:
                if checkpoint is not None and now - saved >= checkpoint_seconds:
                    self.checkpoint().save(checkpoint)
                    saved = now
                if progress is not None:
                    progress({"step": self.step, "steps": self.total_steps, "loss": self.record.losses[-1]})
        if self.step == self.total_steps:
            self.method.finish()
        return self.record

    def _train_step(self) -> None:
        self.optimizer.begin_step(self.step)
        batch = self._batch(self.step)
        labels = batch.pop("labels")
        lanes = self.method.lanes(self.step)
        if self.method.mixed and len(lanes) > 1:
            loss = self._mixed_step(lanes, batch, labels)
        else:
            loss = sum(self._lane_step(lane, batch, labels) for lane in lanes)
        self.record.losses.append(loss)
        self.step += 1
        if self.step % self.method.local_steps == 0 or self.step == self.total_steps:
            report = self.method.end_round(self.step, self._generator)
            self.record.growth += report.grown
            self.optimizer.forget(report.retired)
            self._adopt()

    def _batch(self, step: int) -> dict[str, Tensor]:
        per_epoch = self.settings.steps_per_epoch(len(self.data))
        epoch, position = divmod(step, per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            batches = epoch_batches(
                self.seed,
                epoch,
                self.data.lengths,
                self.settings.batch_size,
                group_by_length=self.settings.group_by_length,
            )
            self._epoch = epoch, batches
        rows = self._epoch[1][position]
        batch = self.data.batch(rows, self.pad_token_id)
        return {key: value.to(self.device) for key, value in batch.items()}

    def _lane_step(self, lane: Lane, batch: dict[str, Tensor], labels: Tensor) -> float:
        self.adapted.use(lane, generator(self.seed, "dropout", self.step, lane.index, device=self.device))
        logits = self.adapted.model(**batch).logits
        loss = F.cross_entropy(logits.float(), labels)
        self._backward(loss, [lane])
        self._count([lane], batch)
        return float(loss.detach())

    def _mixed_step(self, lanes: Sequence[Lane], batch: dict[str, Tensor], labels: Tensor) -> float:
        size = len(labels)
        offset = self.step + derive_seed(self.seed, "rotation") % 2**32
        lane_of_row = (torch.arange(size, device=labels.device) + offset) % len(lanes)
        counts = torch.bincount(lane_of_row, minlength=len(lanes))
        self.adapted.use(RowMasks(lanes, lane_of_row), generator(self.seed, "dropout", self.step, device=self.device))
        logits = self.adapted.model(**batch).logits
        per_row = F.cross_entropy(logits.float(), labels, reduction="none")
        loss = (per_row / counts[lane_of_row]).sum()
        present = [lane for lane, count in zip(lanes, counts.tolist(), strict=True) if count]
        if not torch.isfinite(loss):
            finite = torch.isfinite(per_row.detach())
            broken = [lane for i, lane in enumerate(lanes) if not finite[lane_of_row == i].all()]
            raise self._diverged(broken or present, "loss", loss)
        self._backward(loss, present)
        self._count([None], batch)
        return float(loss.detach())

    def _backward(self, loss: Tensor, lanes: Sequence[Lane]) -> None:
        if not torch.isfinite(loss):
            raise self._diverged(lanes, "loss", loss)
        torch.autograd.backward(loss)
        learning: list[nn.Parameter] = []
        for lane in lanes:
            self.method.observe(lane)
            parameters = self.adapted.parameters(lane)
            norm = nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)
            if not torch.isfinite(norm):
                raise self._diverged([lane], "gradient norm", norm)
            learning += parameters
        self.optimizer.step(learning)

    def _diverged(self, lanes: Sequence[Lane], what: str, value: Tensor) -> DivergedError:
        return DivergedError(f"{_names(lanes)}, step {self.step}: the {what} is {float(value.detach())}")

    def _count(self, lanes: Sequence[Lane | None], batch: dict[str, Tensor]) -> None:
        record, mask = self.record, batch["attention_mask"]
        in_memory = self.adapted.adapter_parameters()
        record.peak_parameters = max(record.peak_parameters, in_memory)
        record.lane_passes += len(lanes)
        record.tokens += int(mask.sum()) * len(lanes)
        record.padded_tokens += mask.numel() * len(lanes)
        for lane in lanes:
            acting = in_memory if lane is None else self.adapted.acting_parameters(lane)
            record.adapter_token_parameters += mask.numel() * acting

    def _adopt(self) -> None:
        self.optimizer.adopt(self.adapted.named_parameters().values(), self.step)

    def checkpoint(self) -> Checkpoint:
        """The complete state at the end of a round; it holds the live tensors, so save it before training goes on."""
        adam, births = self.optimizer.state(self.adapted.named_parameters())
        tensors = {f"model|{k}": v for k, v in self.adapted.state().items()}
        tensors |= {f"adam|{k}": v for k, v in adam.items()}
        tensors["generator"] = self._generator.get_state()
        structure = self.adapted.structure()
        meta = {
            "step": self.step,
            "structure": vars(structure),
            "births": births,
            "method": self.method.state(),
            "record": {**vars(self.record), "growth": [e.model_dump() for e in self.record.growth]},
        }
        return Checkpoint(tensors, meta)

    def resume(self, saved: Checkpoint) -> None:
        """Continues where `saved` was taken, instead of `start`: the rest is bit for bit the uninterrupted run."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "adam": {}}
        for key, tensor in saved.tensors.items():
            kind, _, name = key.partition("|")
            if name:
                groups[kind][name] = tensor
        meta = saved.meta
        self.adapted.rebuild(Structure(**meta["structure"]))
        self.adapted.load_state(groups["model"])
        self.optimizer.load(self.adapted.named_parameters(), groups["adam"], meta["births"])
        self._generator.set_state(saved.tensors["generator"])
        self.method.load_state(self.adapted, meta["method"])
        growth = [GrowthEvent(**event) for event in meta["record"]["growth"]]
        self.record = TrainingRecord(**{**meta["record"], "growth": growth})
        self.step = int(meta["step"])


def _names(lanes: Sequence[Lane]) -> str:
    return "lane " + ", ".join("reserve" if lane.index == RESERVE else str(lane.index) for lane in lanes)
