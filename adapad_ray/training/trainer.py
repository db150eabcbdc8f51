"""The training loop of one worker of a cell: lanes, rounds, checkpoints. No Ray.

A cell has one worker, or several that run this same loop side by side. Component-parallel workers own a part of the
lanes each and exchange estimates through an `Exchange`; at growth, checkpoints and the end they gather, after which
every worker holds the state that a single one would hold. Data-parallel workers see a part of every batch each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adapad_ray.adapters.lane import RESERVE, Lane
from adapad_ray.adapters.trainable_model import Structure, TrainableModel
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.base import Method
from adapad_ray.tasks import Split
from adapad_ray.tasks.losses import Loss, cross_entropy
from adapad_ray.training.checkpoint import Checkpoint
from adapad_ray.training.estimates import Estimates
from adapad_ray.training.gradient_checkpointing import recomputed_layers
from adapad_ray.training.optimizer import ComponentOptimizer
from adapad_ray.training.padding import pad_to_multiple
from adapad_ray.training.precision import scaled_backward
from adapad_ray.training.randomness import epoch_batches, generator
from adapad_ray.training.record import RoundObserver, RoundStats, Tally, TrainingRecord, lane_name
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.workers import Alone, Exchange, Replicas, Share, Traffic

Progress = Callable[[dict[str, Any]], None]
Probe = Callable[[TrainableModel, Sequence[int]], list[float]]
"""Looks at the live values of the blocks that are published; one number per active block, block 1 first."""


class DivergedError(RuntimeError):
    """A loss or gradient was not finite; says in which lane and at which step. It ends its cell alone."""


class LaneTrainer:
    """Trains the lanes that a method names.

    Every lane sees the whole batch, one forward and backward pass after another.

    Args:
        loss: name of the task's loss in `tasks.losses`.
        exchange: the connection to the workers that own the other lanes.
        replicas: the connection to the workers that see the other part of each batch.
        probe: looks at what is published at the end of every round. Each worker's word counts for its own lanes.
        observer: told the figures of every round.
    """

    def __init__(
        self,
        adapted: TrainableModel,
        method: Method[Any],
        data: Split,
        settings: TrainingSettings,
        *,
        total_steps: int,
        seed: int,
        pad_token_id: int,
        device: torch.device | str = "cpu",
        loss: Loss = cross_entropy,
        exchange: Exchange | None = None,
        replicas: Replicas | None = None,
        probe: Probe | None = None,
        observer: RoundObserver | None = None,
    ) -> None:
        self.adapted, self.method, self.data, self.settings = adapted, method, data, settings
        self.total_steps, self.seed, self.pad_token_id, self.device = total_steps, seed, pad_token_id, device
        self.exchange, self.replicas = exchange or Alone(), replicas or Replicas()
        self.loss, self.probe, self.observer = loss, probe, observer
        self.optimizer = ComponentOptimizer(settings, total_steps, method.learning_rate_scale)
        self.estimates = Estimates(adapted, method.staleness)
        self.record = TrainingRecord()
        self.step = 0
        self._generator = generator(seed, "components")
        self._epoch: tuple[int, list[np.ndarray]] | None = None
        self._work = Tally()
        """This worker's, since all gathered last."""
        self._losses: dict[int, dict[int, float]] = {}
        """Step → position of the lane among the step's lanes → loss: this worker's, since all gathered last."""
        self._round_losses: dict[int, list[float]] = {}
        self._round_tokens = 0
        self._probes: list[list[float]] = []
        """One row a round: this worker's, since all gathered last."""
        self._checkpoint_version = 0
        self._half = any(p.dtype == torch.float16 for p in adapted.model.parameters())
        if settings.gradient_checkpointing and method.config.dropout:
            raise BadRequestError(
                f"dropout is {method.config.dropout} and training.gradient_checkpointing is true: the second pass "
                "would drop other values; leave one of them out"
            )

    def start(self) -> None:
        """Builds the method's first components."""
        self.method.build(self._generator)
        self._adopt()

    def run(
        self,
        *,
        checkpoint: Path | None = None,
        checkpoint_seconds: float = 60.0,
        checkpoint_rounds: int | None = None,
        stop_at: int | None = None,
        progress: Progress | None = None,
    ) -> TrainingRecord:
        """Trains to the last step (or to `stop_at`), saving to `checkpoint` at the end of a round every so often.

        Raises:
            DivergedError: a loss or gradient is not finite.
            AttemptLostError: another worker of this cell is gone.
        """
        clock = _Clock(self, checkpoint, checkpoint_seconds, checkpoint_rounds)
        end = self.total_steps if stop_at is None else min(stop_at, self.total_steps)
        while self.step < end:
            with recomputed_layers(self.adapted.model, self.settings.gradient_checkpointing):
                loss = self._train_step()
            if self.step % self.method.local_steps == 0 or self.step == self.total_steps:
                self._end_round(clock)
            elif self.exchange.workers == 1:
                self._settle([self._share({})])
            self.record.seconds = clock.seconds()
            if progress is not None and self.step % self.method.local_steps == 0:
                progress({"step": self.step, "steps": self.total_steps, "loss": loss})
        if self.step == self.total_steps:
            self.method.finish()
        return self.record

    def _train_step(self) -> float:
        """One optimizer step of this worker's lanes; returns the sum of their losses."""
        self.optimizer.begin_step(self.step, self.method.phase(self.step))
        batch = self._batch(self.step)
        labels = batch.pop("labels")
        lanes = self.method.lanes(self.step)
        mine = [(i, lane) for i, lane in enumerate(lanes) if self._owns(lane.index, self.step)]
        losses = {i: self._lane_step(lane, batch, labels) for i, lane in mine}
        for i, lane in mine:
            self._round_losses.setdefault(lane.index, []).append(losses[i])
        self._losses[self.step] = losses
        self.record.peak_parameters = max(self.record.peak_parameters, self.adapted.adapter_parameters())
        self.step += 1
        return sum(losses.values())

    def _owns(self, lane: int, step: int) -> bool:
        """Whether this worker trains the lane in `step`; the reserve lane stands after the last component's."""
        if self.method.in_tail(step):
            return self.exchange.rank == 0
        return self.exchange.owner(self.adapted.blocks + 1 if lane == RESERVE else lane) == self.exchange.rank

    def _end_round(self, clock: _Clock) -> None:
        """Grows where it is time, publishes, reads the estimates of the coming round, and saves where it is time."""
        self._check_finite()
        estimates, exchange = self.estimates, self.exchange
        version, due = estimates.newest + 1, clock.due(estimates.newest + 1)
        tokens, compute = self._round_tokens, clock.lap()
        if self.probe is not None:
            self._probes.append(self.probe(self.adapted, self.method.published(self.step)))
        ended, agreed = self.step == self.total_steps, version == self._checkpoint_version
        tail = self.method.in_tail(self.step)
        together = exchange.workers == 1 or ended or agreed or self.method.grows(self.step)
        together |= tail and not self.method.in_tail(self.step - 1)
        if together:
            self._settle(exchange.gather(version, self._share(self._tensors() if exchange.workers > 1 else {})))
        report = self.method.end_round(self.step, self._generator)
        self.record.growth += report.grown
        self.optimizer.forget(report.retired)
        self._adopt()
        blocks = self.method.published(self.step)
        mine = estimates.add(blocks, blocks if together else [k for k in blocks if self._owns(k, self.step - 1)])
        if not together:
            self._swap(version, mine, due)
        movement = estimates.read(newest=tail)
        if together and due and not ended:
            clock.save(version)
        if self.observer is not None:
            self.observer(self._stats(clock, movement, tokens, compute))
        self._round_losses, self._round_tokens = {}, 0
        clock.begin_round()

    def _check_finite(self) -> None:
        """What is not finite is never published: a lane that reads it would be blamed for it, or another worker."""
        for lane in self.method.lanes(self.step - 1):
            if self._owns(lane.index, self.step - 1):
                largest = nn.utils.get_total_norm(self.adapted.parameters(lane), norm_type=float("inf"))
                if not torch.isfinite(largest):
                    step, value = self.step - 1, float(largest)
                    raise DivergedError(f"lane {lane_name(lane.index)}, step {step}: the largest parameter is {value}")

    def _swap(self, version: int, mine: Mapping[int, Tensor], due: bool) -> None:
        """Publishes this worker's estimates; fetches what its lanes read next, and when rank 0 wants a checkpoint."""
        estimates, exchange = self.estimates, self.exchange
        reads = [lane.frozen for lane in self.method.lanes(self.step) if self._owns(lane.index, self.step)]
        wanted = estimates.missing(max(reads, default=0))
        if due and self._checkpoint_version < version:
            self._checkpoint_version = version + estimates.staleness + 2
        fetched, self._checkpoint_version = exchange.swap(
            version, mine, wanted, estimates.readable, estimates.staleness, self._checkpoint_version
        )
        estimates.receive(estimates.readable, fetched)

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
        self._batch_size = len(rows)
        if self.replicas.workers > 1:
            rows = rows[self.replicas.rank :: self.replicas.workers]
        batch = self.data.batch(rows, self.pad_token_id)
        batch = pad_to_multiple(batch, self.settings.pad_to_multiple_of, self.pad_token_id)
        return {key: value.to(self.device) for key, value in batch.items()}

    def _lane_step(self, lane: Lane, batch: dict[str, Tensor], labels: Tensor) -> float:
        self.adapted.use(lane, self._dropout(lane.index))
        if len(labels):
            loss = self.loss(self.adapted.model(**batch), labels).sum() / self._batch_size
        else:  # a last batch of fewer examples than there are replicas
            loss = torch.zeros((), device=self.device)
        penalty = self.method.penalty(lane)
        if penalty is not None:  # every replica adds its part, and their losses are summed
            loss = loss + penalty / self.replicas.workers
        return self._backward(loss, lane, batch)

    def _dropout(self, lane: int) -> torch.Generator:
        replica = (self.replicas.rank,) if self.replicas.workers > 1 else ()
        return generator(self.seed, "dropout", self.step, lane, *replica, device=self.device)

    def _backward(self, loss: Tensor, lane: Lane, batch: dict[str, Tensor]) -> float:
        """Backward pass, clipping and optimizer step of `lane`; returns the loss over all replicas."""
        size = self.data.size_of(batch)
        self._round_tokens += size[0]
        parameters = self.adapted.parameters(lane)
        if self.replicas.workers > 1:
            if loss.requires_grad:
                self._differentiate(loss, parameters)
            loss, size = self.replicas.reduce(loss, size, parameters)
        if not torch.isfinite(loss):
            raise self._diverged(lane, "loss", loss)
        if self.replicas.workers == 1 and loss.requires_grad:  # nothing learns in a lane of no component and no head
            self._differentiate(loss, parameters)
        self.method.observe(lane)
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise self._diverged(lane, "gradient norm", norm)
        self.optimizer.step(parameters)
        self.method.stepped(self.step + 1)
        self.optimizer.clear_gradients()
        self._count(*size, self.adapted.acting_parameters(lane))
        return float(loss.detach())

    def _differentiate(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        if self._half:
            scaled_backward(loss, parameters)
        else:
            torch.autograd.backward(loss)

    def _diverged(self, lane: Lane, what: str, value: Tensor) -> DivergedError:
        return DivergedError(f"lane {lane_name(lane.index)}, step {self.step}: the {what} is {float(value.detach())}")

    def _count(self, tokens: int, padded: int, acting: int) -> None:
        work = self._work
        work.lane_passes += 1
        work.tokens += tokens
        work.padded_tokens += padded
        work.adapter_token_parameters += padded * acting

    def _adopt(self) -> None:
        self.optimizer.adopt(self.adapted.named_parameters().values(), self.step)

    # What workers bring together --------------------------------------------------------------------------------------

    def _share(self, tensors: dict[str, Tensor]) -> Share:
        """This worker's part of the state, and what it has counted since all gathered last."""
        mine = {name: t for name, t in tensors.items() if self._owns(_lane_of(name), self.step - 1)}
        scored = self.method.state() if tensors and self._owns(RESERVE, self.step - 1) else None
        counted = {"losses": self._losses, "work": self._work, "probes": self._probes}
        return Share(mine, {"method": scored, "checkpoint": self._checkpoint_version, **counted})

    def _settle(self, shares: Sequence[Share]) -> None:
        """Takes in every worker's share: from here on all hold what a single worker would hold."""
        steps: dict[int, dict[int, float]] = {}
        for rank, share in enumerate(shares):
            for step, losses in share.meta["losses"].items():
                steps.setdefault(step, {}).update(losses)
            self.record.work.add(share.meta["work"])
            if rank != self.exchange.rank:
                self._absorb(share.tensors)
                if share.meta["method"] is not None:
                    self.method.load_state(share.meta["method"])
        self._checkpoint_version = shares[0].meta["checkpoint"]
        self.record.losses += [sum(steps[step][i] for i in sorted(steps[step])) for step in sorted(steps)]
        tail = self.method.in_tail(self.step - 1)
        for rows in zip(*(share.meta["probes"] for share in shares), strict=True):
            owners = [0 if tail else self.exchange.owner(k) for k in range(1, len(rows[0]) + 1)]
            self.record.probes.append([rows[owner][i] for i, owner in enumerate(owners)])
        self._losses, self._work, self._probes = {}, Tally(), []

    def _tensors(self) -> dict[str, Tensor]:
        """The state that belongs to lanes, by kind and name."""
        tensors = {f"model|{k}": v for k, v in self.adapted.state().items()}
        tensors |= {f"adam|{k}": v for k, v in self.optimizer.tensors(self.adapted.named_parameters()).items()}
        return tensors | {f"estimate|{k}": v for k, v in self.estimates.tensors().items()}

    def _absorb(self, tensors: dict[str, Tensor]) -> None:
        groups = _by_kind(tensors)
        self.adapted.load_state(groups["model"], partial=True)
        self.optimizer.absorb(self.adapted.named_parameters(), groups["adam"])
        self.estimates.absorb(groups["estimate"])

    def checkpoint(self) -> Checkpoint:
        """The complete state at the end of a round; it holds the live tensors, so save it before training goes on."""
        meta = {
            "step": self.step,
            "structure": vars(self.adapted.structure()),
            "births": self.optimizer.births(self.adapted.named_parameters()),
            "estimates": self.estimates.meta(),
            "method": self.method.state(),
            "record": self.record.state(),
        }
        return Checkpoint(self._tensors() | {"generator": self._generator.get_state()}, meta)

    def resume(self, saved: Checkpoint) -> None:
        """Continues where `saved` was taken, instead of `start`: the rest is bit for bit the uninterrupted run."""
        groups, meta = _by_kind(saved.tensors), saved.meta
        self.adapted.rebuild(Structure(**meta["structure"]))
        self.adapted.load_state(groups["model"])
        self.optimizer.load(self.adapted.named_parameters(), groups["adam"], meta["births"])
        self.estimates.load(meta["estimates"], groups["estimate"])
        self._generator.set_state(saved.tensors["generator"])
        self.method.load_state(meta["method"])
        self.record = TrainingRecord.load(meta["record"])
        self.step = int(meta["step"])

    def _stats(self, clock: _Clock, movement: dict[int, float], tokens: int, compute: float) -> RoundStats:
        return RoundStats(
            round=self.estimates.newest,
            step=self.step,
            losses={lane: sum(values) / len(values) for lane, values in self._round_losses.items()},
            movement=movement,
            ranks=self.adapted.ranks,
            parameters=self.adapted.active_parameters(),
            staleness=self.estimates.newest - self.estimates.readable,
            tokens=tokens,
            compute_seconds=compute,
            **clock.traffic(),
        )


class _Clock:
    """The times of one call of `run`: training so far, the last checkpoint, the round that is on."""

    def __init__(self, trainer: LaneTrainer, folder: Path | None, seconds: float, rounds: int | None) -> None:
        self._trainer, self._folder, self._seconds, self._rounds = trainer, folder, seconds, rounds
        self._before = trainer.record.seconds
        self._began = self._saved = self._round_began = time.perf_counter()
        self._saved_version = trainer.estimates.newest
        self._traffic = [Traffic(**vars(t)) for t in self._channels()]

    def _channels(self) -> tuple[Traffic, Traffic]:
        return self._trainer.exchange.traffic, self._trainer.replicas.traffic

    def seconds(self) -> float:
        """Training time of the cell so far, earlier attempts included."""
        return self._before + time.perf_counter() - self._began

    def due(self, version: int) -> bool:
        """Whether this worker is to save a checkpoint; only that of rank 0 ever is."""
        if self._folder is None or self._trainer.exchange.rank or self._trainer.replicas.rank:
            return False
        late = time.perf_counter() - self._saved >= self._seconds
        return late or (self._rounds is not None and version - self._saved_version >= self._rounds)

    def save(self, version: int) -> None:
        """Saves the trainer's state."""
        assert self._folder is not None
        self._trainer.record.seconds = self.seconds()
        self._trainer.checkpoint().save(self._folder)
        self._saved, self._saved_version = time.perf_counter(), version

    def lap(self) -> float:
        """Seconds of computing in the round that ends now; replicas have exchanged in the middle of it."""
        exchanged = self._trainer.replicas.traffic.exchange_seconds - self._traffic[1].exchange_seconds
        return time.perf_counter() - self._round_began - exchanged

    def traffic(self) -> dict[str, Any]:
        """What the exchange has cost since the last call."""
        totals: dict[str, Any] = {}
        for before, now in zip(self._traffic, self._channels(), strict=True):
            for name, value in vars(now).items():
                totals[name] = totals.get(name, 0) + value - getattr(before, name)
        self._traffic = [Traffic(**vars(t)) for t in self._channels()]
        return totals

    def begin_round(self) -> None:
        """From here on is the next round's computing; whoever observed the last one was not."""
        self._round_began = time.perf_counter()


def _by_kind(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "adam": {}, "estimate": {}}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("|")
        if name:
            groups[kind][name] = tensor
    return groups


def _lane_of(name: str) -> int:
    """The lane that a tensor of `LaneTrainer._tensors` belongs to: its component's, or its head's."""
    _kind, _, lane, *rest = name.split("|")
    return int(rest[0].partition(".")[0]) if lane == "head" else int(lane)
