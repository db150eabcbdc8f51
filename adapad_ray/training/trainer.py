"""The training of one cell by one worker, as an algorithm: steps of lanes, rounds of estimates, checkpoints.

A *lane* is one prefix model in training: some components act as last published, some learn from the task loss. A
*round* is `method.local_steps` optimizer steps; at its end lanes publish the *estimates* of their components and read
those of the others. The method decides which lanes there are and when the structure grows; `Workers` decides what of
this falls to this worker, if a cell has several. Losses and norms stay on the device until the round ends: reading one
makes the host wait until the device has computed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adapad_ray.adapters.lane import RESERVE, Lane
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.base import Method
from adapad_ray.tasks.losses import Loss, cross_entropy
from adapad_ray.training.batches import Batch, Batches
from adapad_ray.training.checkpoint import Checkpoint, Checkpointer
from adapad_ray.training.estimates import Estimates
from adapad_ray.training.lane_state import LaneState
from adapad_ray.training.optimizer import ComponentOptimizer
from adapad_ray.training.passes.attention_masks import known_padding
from adapad_ray.training.passes.gradient_checkpointing import recomputed_layers
from adapad_ray.training.passes.lane_passes import LanePass, LanePasses
from adapad_ray.training.passes.precision import backward_for
from adapad_ray.training.passes.token_losses import example_losses
from adapad_ray.training.randomness import generator
from adapad_ray.training.record import Counts, OnProgress, Probe, RoundObserver, TrainingRecord
from adapad_ray.training.round_meter import RoundMeter, Stopwatch
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.weight_average import WeightAverage
from adapad_ray.training.workers import Alone, Share, Workers


@dataclass(frozen=True)
class DueStep:
    """What a trainer trains in its next step."""

    lanes: Sequence[tuple[int, Lane]]
    """Each with its position among all lanes of the step."""
    batch: Batch
    """This worker's part."""
    batch_size: int
    """Examples of the whole batch."""


class Trainer:
    """Trains the lanes of a method whose model is adapted already.

    Args:
        loss: the task's loss, one value per example.
        workers: what this worker does of the training; by default all of it.
        probe: measures the published components at the end of every round.
        observer: called with the figures of every round.

    Raises:
        BadRequestError: settings and method exclude each other.
    """

    def __init__(
        self,
        method: Method[Any],
        batches: Batches,
        settings: TrainingSettings,
        *,
        total_steps: int,
        loss: Loss = cross_entropy,
        workers: Workers | None = None,
        probe: Probe | None = None,
        observer: RoundObserver | None = None,
    ) -> None:
        if settings.gradient_checkpointing and method.config.dropout:
            raise BadRequestError(
                f"dropout is {method.config.dropout} and training.gradient_checkpointing is true: the second forward "
                "pass would drop other values; set one of them to its default"
            )
        self.method, self.adapted = method, method.adapted
        self.batches, self.settings, self.total_steps = batches, settings, total_steps
        self.workers, self.probe, self.observer = workers or Alone(), probe, observer
        self.optimizer = ComponentOptimizer(settings, total_steps, method.learning_rate_scale)
        self.estimates = Estimates(self.adapted, method.staleness)
        self.step, self.record = 0, TrainingRecord()
        self._average = WeightAverage()
        self._lanes = LaneState(self.adapted, self.optimizer, self._average, self.estimates)
        self.stopwatch = Stopwatch()
        """Runs while `steps` does."""
        self._passes, self._counts = LanePasses(), Counts()
        self._meter = RoundMeter(self.workers.traffic, self.stopwatch)
        self.loss, self._backward = loss, backward_for(self.adapted.model)
        self._generator = generator(batches.seed, "components")
        self._pause_at: int | None = None

    def start(self) -> None:
        """Builds the method's first components."""
        self.method.build(self._generator)
        self._adopt_parameters()

    def run(
        self,
        checkpointer: Checkpointer | None = None,
        *,
        stop_at: int | None = None,
        pause_at: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> TrainingRecord:
        """Trains to the last step, or to `stop_at`, or to `pause_at`.

        A pause is at the end of a round: all workers have gathered there, and the checkpoint is saved.

        Raises:
            DivergedError: a loss, gradient or parameter is not finite; found when its round, or the call, ends.
            AttemptLostError: another worker of this cell is gone.
        """
        for _ in self.steps(checkpointer, stop_at=stop_at, pause_at=pause_at, on_progress=on_progress):
            self.train_step()
        return self.record

    def steps(
        self,
        checkpointer: Checkpointer | None = None,
        *,
        stop_at: int | None = None,
        pause_at: int | None = None,
        on_progress: OnProgress | None = None,
    ) -> Iterator[None]:
        """The training as `run` does it, except that the caller takes the steps: one for every value of the iterator,
        by `train_step` or together with other trainers. Ends of rounds, checkpoints and reports happen in between.

        Raises:
            DivergedError, AttemptLostError: as `run` does.
        """
        first, self._pause_at = self.step, pause_at
        self._average.begin(pause_at)
        end = min(step for step in (self.total_steps, stop_at, pause_at) if step is not None)
        self.stopwatch.start(self.record.seconds)
        self._meter.restart_clock()
        if checkpointer is not None:
            checkpointer.begin(self.estimates.newest)
        while self.step < end:
            yield
            if self.ends_round:
                loss = self._read_passes(self._largest_parameters())
                self.record.seconds = self.stopwatch.seconds
                self._end_round(checkpointer if self.workers.leads else None)
                if on_progress is not None and self.step % self.method.local_steps == 0:
                    self.record.seconds = self.stopwatch.seconds
                    known = loss if self.workers.complete else None
                    with self.stopwatch.paused():
                        on_progress({"step": self.step, "steps": self.total_steps, "loss": known, "resumed": first})
                    self._meter.restart_clock()
            elif self.step == end:
                self._read_passes({})
                if self.workers.complete:
                    self._settle([])
        self.record.seconds = self.stopwatch.seconds
        if self.step == self.total_steps:
            self.method.finish()

    def train_step(self) -> None:
        """One optimizer step of the lanes of this worker, without waiting for the device."""
        due = self.begin_step()
        with recomputed_layers(self.adapted.model, self.settings.gradient_checkpointing):
            for position, lane in due.lanes:
                self.add_pass(self.train_lane(position, lane, due))
        self.end_step()

    def use_average(self) -> None:
        """Overwrites the weights by their mean over the last steps before the pause at which the training is.

        The model can be evaluated then, but not be trained on: for that, resume the pause's checkpoint.
        """
        self._average.copy_to(self.adapted.named_parameters())
        self.adapted.publish(self.method.published(self.step))

    @property
    def ends_round(self) -> bool:
        """Whether the step just taken is the last one of its round."""
        return self.step % self.method.local_steps == 0 or self.step == self.total_steps

    def begin_step(self) -> DueStep:
        """Sets the learning rates of the next step and loads its batch."""
        self.optimizer.begin_step(self.step, self.method.phase(self.step))
        rows = self.batches.rows(self.step)
        batch = self.batches.load(self.workers.rows(rows))
        lanes = [
            (position, lane)
            for position, lane in enumerate(self.method.lanes(self.step))
            if self._trains(lane.index, self.step)
        ]
        return DueStep(lanes, batch, len(rows))

    def add_pass(self, done: LanePass) -> None:
        """Keeps the numbers of a pass of this step until the round ends."""
        self._passes.add(done)

    def end_step(self) -> None:
        """Counts the step whose lanes have trained."""
        self._counts.losses[self.step] = {}
        self.record.peak_parameters = max(self.record.peak_parameters, self.adapted.adapter_parameters())
        self.step += 1
        if self._average.wants(self.step):
            self._average.add(self.adapted.named_parameters())

    def train_lane(self, position: int, lane: Lane, due: DueStep) -> LanePass:
        """Forward pass, loss, backward pass, clipping and update of the lane at `position` among those of the step."""
        loss = self.add_gradients(lane, due.batch, due.batch_size)
        return self._update(position, lane, due.batch.size, loss)

    def add_gradients(self, lane: Lane, batch: Batch, batch_size: int) -> Tensor:
        """Forward and backward passes of a lane, one for every micro-batch; returns this worker's part of the loss."""
        self.adapted.use(lane, self.dropout(lane))
        parts = batch.parts(self.settings.micro_batch_size)
        losses: list[Tensor] = []
        self.method.in_parts = len(parts) > 1
        for part in parts:
            loss = self._loss_of(lane, part, batch_size)
            penalty = None if losses else self.method.penalty(lane)
            if penalty is not None:
                loss = loss + penalty / self.workers.replicas
            if loss.requires_grad:  # not in a lane that has neither a learning component nor a head
                self._backward(loss, self.adapted.parameters(lane))
            losses.append(loss)
        return losses[0] if len(losses) == 1 else torch.stack([loss.detach() for loss in losses]).sum()

    def _update(self, position: int, lane: Lane, own_size: tuple[int, int], loss: Tensor) -> LanePass:
        """Clips the gradients of a lane and takes an optimizer step with them."""
        parameters = self.adapted.parameters(lane)
        loss, size = self.workers.reduce(loss, own_size, parameters)
        self.method.observe(lane)
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)
        self.optimizer.step(parameters)
        self.method.stepped(self.step + 1)
        self.optimizer.clear_gradients()
        acting = self.adapted.acting_parameters(lane)
        return LanePass(self.step, position, lane.index, acting, own_size[0], size, loss.detach(), norm)

    def _loss_of(self, lane: Lane, batch: Batch, batch_size: int) -> Tensor:
        """This worker's part of the mean loss over the whole batch."""
        if len(batch.labels):
            with known_padding(batch, on=torch.device(self.batches.device).type != "cpu"):
                loss = example_losses(self.adapted.model, batch, self.loss).sum() / batch_size
        else:  # a last batch with fewer examples than workers
            loss = torch.zeros((), device=self.batches.device)
        return loss

    def dropout(self, lane: Lane) -> torch.Generator:
        """Draws the dropout of a lane in this step."""
        key = (self.step, lane.index, *self.workers.dropout_key)
        return generator(self.batches.seed, "dropout", *key, device=self.batches.device)

    def _trains(self, lane: int, step: int) -> bool:
        """Whether this worker trains the lane in `step`: rank 0 the joint tail, and the reserves are the last lane."""
        if self.method.in_tail(step):
            return self.workers.trains(0)
        return self.workers.trains(self.adapted.blocks + 1 if lane == RESERVE else lane)

    def _largest_parameters(self) -> dict[int, Tensor]:
        """Lane → its largest parameter, for the lanes of the last step that this worker has trained."""
        return {
            lane.index: nn.utils.get_total_norm(self.adapted.parameters(lane), norm_type=float("inf"))
            for lane in self.method.lanes(self.step - 1)
            if self._trains(lane.index, self.step - 1)
        }

    def _read_passes(self, largest: Mapping[int, Tensor]) -> float:
        """Waits for the device and counts its passes; returns the last step's loss, summed over this worker's lanes.

        What is not finite is found here, before anything is published: it would break the lanes that read it.
        """
        for done in self._passes.read(largest):
            self._counts.losses[done.step][done.position] = done.loss
            self._counts.work.count(done.tokens, done.padded_tokens, done.acting_parameters)
            self._meter.add(done.lane, done.loss, done.own_tokens)
        return sum(self._counts.losses[self.step - 1].values())

    def _end_round(self, checkpointer: Checkpointer | None) -> None:
        """Grows where it is time, publishes, reads the estimates of the next round, and saves where it is time."""
        version = self.estimates.newest + 1
        paused = self.step == self._pause_at
        checkpoint_due = checkpointer is not None and (paused or checkpointer.due(version))
        self._meter.end_compute()
        self._take_probe()
        ended, tail = self.step == self.total_steps, self.method.in_tail(self.step)
        together = (
            self.workers.gathers_at(version)
            or ended
            or paused
            or self.method.grows(self.step)
            or (tail and not self.method.in_tail(self.step - 1))
        )
        if together:
            self._gather(version)
        self._grow()
        blocks = self.method.published(self.step)
        known = blocks if together else [k for k in blocks if self._trains(k, self.step - 1)]
        mine = self.estimates.add(blocks, known)
        if not together:
            self._swap(version, mine, checkpoint_due)
        movement = self.estimates.read(newest=tail)
        if checkpointer is not None and checkpoint_due and together and not ended:
            checkpointer.save(version, self.checkpoint())
        if self.observer is not None:
            self.observer(self._meter.stats(self.step, self.adapted, self.estimates, movement))
        self._meter.begin_round()

    def _take_probe(self) -> None:
        if self.probe is not None:
            values = self.probe(self.adapted, self.method.published(self.step))
            mine = {k: value for k, value in enumerate(values, start=1) if self._trains(k, self.step - 1)}
            self._counts.probes.append(mine)

    def _grow(self) -> None:
        report = self.method.end_round(self.step, self._generator)
        self.record.growth += report.grown
        self.optimizer.forget(report.retired)
        self._adopt_parameters()

    def _adopt_parameters(self) -> None:
        self.optimizer.adopt(self.adapted.named_parameters().values(), self.step)

    def _swap(self, version: int, mine: Mapping[int, Tensor], checkpoint_due: bool) -> None:
        """Publishes this worker's estimates and fetches those that its lanes read in the next round."""
        lanes = [lane for lane in self.method.lanes(self.step) if self._trains(lane.index, self.step)]
        wanted = self.estimates.missing(max((lane.frozen for lane in lanes), default=0))
        readable, staleness = self.estimates.readable, self.estimates.staleness
        fetched = self.workers.swap(version, mine, wanted, readable, staleness=staleness, checkpoint_due=checkpoint_due)
        self.estimates.receive(readable, fetched)

    def _gather(self, version: int) -> None:
        """Brings the state of all workers together: from here on each holds what a single worker would hold."""
        others = self.workers.gather(version, self._counts, self._own_lanes)
        for _, share in others:
            self._lanes.absorb(share.tensors)
            if share.meta is not None:
                self.method.load_state(share.meta)
        self._settle([counts for counts, _ in others])

    def _own_lanes(self) -> Share:
        """What this worker has trained; the worker of the reserves adds the method's state, with their scores."""
        tensors = self._lanes.tensors_of(lambda lane: self._trains(lane, self.step - 1))
        return Share(tensors, self.method.state() if self._trains(RESERVE, self.step - 1) else None)

    def _settle(self, others: list[Counts]) -> None:
        self.record.settle([self._counts, *others])
        self._counts = Counts()

    def checkpoint(self) -> Checkpoint:
        """The complete state at the end of a round; it holds the live tensors, so save it before training goes on."""
        meta = {"step": self.step, "method": self.method.state(), "record": self.record.state()}
        tensors = {"generator": self._generator.get_state()}
        return Checkpoint(self._lanes.tensors() | tensors, self._lanes.meta() | meta)

    def resume(self, saved: Checkpoint) -> None:
        """Continues from `saved` instead of `start`: the rest is bitwise that of an uninterrupted run."""
        self._lanes.load(saved.tensors, saved.meta)
        self.method.load_state(saved.meta["method"])
        self._generator.set_state(saved.tensors["generator"])
        self.record = TrainingRecord.load(saved.meta["record"])
        self.step = int(saved.meta["step"])
