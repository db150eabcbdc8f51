"""Steps of one or more cells whose lanes share passes: as many slots in a pack as fit, pack after pack.

Lanes that cannot be packed, such as one that measures gradients, train alone after the packs.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from adapad_ray.accelerator import free_memory, memory_within_reach, peak_memory, reset_peak_memory
from adapad_ray.adapters.adapted_linear import AdaptedLinear
from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.adapters.packs import NotPackableError, Pack, PublishedRow, Slot, can_be_packed
from adapad_ray.errors import BadRequestError
from adapad_ray.training.batches import Batch, joined
from adapad_ray.training.packs.memory import slots_that_fit
from adapad_ray.training.packs.optimizer import PackOptimizer
from adapad_ray.training.passes.attention_masks import known_padding
from adapad_ray.training.passes.gradient_checkpointing import recomputed_layers
from adapad_ray.training.passes.lane_passes import LanePass
from adapad_ray.training.passes.token_losses import example_losses
from adapad_ray.training.trainer import DueStep, Trainer

LARGEST_DIFFERENCE = 0.5
"""Relative difference of a slot's gradient from that of its lane alone. Rounding in bf16 makes a few percent; a model
whose examples do not stand slot by slot makes another gradient."""


@dataclass(frozen=True, eq=False)
class DueLane:
    """One lane of one cell that has to train in this step."""

    trainer: Trainer
    position: int
    lane: Lane
    due: DueStep

    @property
    def slot(self) -> tuple[Trainer, Lane]:
        """What stays the same from step to step."""
        return self.trainer, self.lane

    @property
    def alike(self) -> Hashable:
        """Lanes whose values are equal can share a pass: they have as many examples, in as many rows.

        Dropout draws a number for every position, padding included, so under dropout texts must be as wide too.
        """
        inputs, dropout = self.due.batch.inputs, self.trainer.method.config.dropout
        if self.trainer.settings.pack_sequences:
            parts = self.due.batch.parts(self.trainer.settings.micro_batch_size)
            shapes = [tuple(part.inputs["input_ids"].shape) if dropout else part.rows for part in parts]
            return len(self.due.batch.labels), *shapes
        if "attention_mask" in inputs and not dropout:
            return len(self.due.batch.labels)
        return len(self.due.batch.labels), *((name, tuple(v.shape[1:])) for name, v in sorted(inputs.items()))


@dataclass(frozen=True)
class LanePack:
    """Some lanes as slots of a pack."""

    slots: tuple[tuple[Trainer, Lane], ...]
    pack: Pack
    optimizer: PackOptimizer
    acting_parameters: tuple[int, ...]


class SharedPasses:
    """Takes the steps of trainers of one backbone, with their lanes as slots of packs.

    The cells have the same data, batch size, precision and loss. They may be at different steps.

    Args:
        slots_per_pass: most lanes of one pass. `auto`: as many as a GPU's memory holds, and 1 elsewhere. Halved when a
            pass runs out of memory.
    """

    def __init__(self, slots_per_pass: int | Literal["auto"]) -> None:
        self._requested = slots_per_pass
        self.most_slots = None if slots_per_pass == "auto" else slots_per_pass
        """Most slots of a pack; None: not measured yet."""
        self._packs: list[LanePack] = []
        self._published: dict[AdaptedModel, PublishedRow] = {}
        self._packable: dict[tuple[Trainer, Lane], bool] = {}
        self._compared = False
        self._lanes: WeakKeyDictionary[Trainer, int] = WeakKeyDictionary()
        self._side_by_side: WeakKeyDictionary[Trainer, int] = WeakKeyDictionary()

    def lanes_of(self, trainer: Trainer) -> int:
        """Lanes of a cell in the last step."""
        return self._lanes.get(trainer, 0)

    def side_by_side(self, trainer: Trainer) -> int:
        """Most cells that took a step together with a cell, itself included."""
        return self._side_by_side.get(trainer, 1)

    def train_step(self, trainers: Sequence[Trainer]) -> dict[Trainer, Exception]:
        """Take one step of every trainer; return the errors of those whose step failed, which change no other's."""
        failures: dict[Trainer, Exception] = {}
        lanes: list[DueLane] = []
        for trainer in trainers:
            try:
                due = trainer.begin_step()
            except Exception as error:  # noqa: BLE001 - it ends its cell alone, whatever it is
                failures[trainer] = error
            else:
                self._lanes[trainer] = len(due.lanes)
                self._side_by_side[trainer] = max(len(trainers), self.side_by_side(trainer))
                lanes += [DueLane(trainer, position, lane, due) for position, lane in due.lanes]
        groups: dict[Hashable, list[DueLane]] = {}
        for lane in lanes:
            groups.setdefault(lane.alike if self._can_be_packed(lane) else lane, []).append(lane)
        alone: list[DueLane] = []
        for group in groups.values():
            alone += self._train_packs(group, failures)
        self._train_alone(alone, failures)
        for trainer in trainers:
            if trainer not in failures:
                trainer.end_step()
        return failures

    def refresh(self, trainer: Trainer) -> None:
        """Read the published values of a cell again: its round has ended."""
        for packed in self._packs:
            if any(other is trainer for other, _ in packed.slots):
                packed.pack.frozen.refresh()

    def forget(self, trainer: Trainer) -> None:
        """Make new packs of what remains: the cell has ended, or its structure changes."""
        if any(other is trainer for packed in self._packs for other, _ in packed.slots):
            self._packs.clear()
        self._published.pop(trainer.adapted, None)  # type: ignore[call-overload]
        for slot in [slot for slot in self._packable if slot[0] is trainer]:
            del self._packable[slot]

    def _train_packs(self, waiting: list[DueLane], failures: dict[Trainer, Exception]) -> list[DueLane]:
        """Trains lanes that are alike in packs; returns those that have to train alone."""
        while len(waiting) > 1 and (most := self._slots(waiting)) > 1:
            packs = -(-len(waiting) // most)
            size = -(-len(waiting) // packs)
            try:
                packed = self._pack_of(waiting[:size])
                losses = self._add_gradients(packed, waiting[:size])
            except torch.OutOfMemoryError:
                self._shrink(size // 2, waiting[0].trainer)
            except NotPackableError as error:
                if self._requested == "auto":
                    self._shrink(1, waiting[0].trainer)
                    continue
                refused = BadRequestError(f"resources.slots_per_pass is {most}: {error}: set it to 1")
                refused.__cause__ = error
                failures.update({lane.trainer: refused for lane in waiting})
                return []
            else:
                self._update(packed, waiting[:size], losses)
                waiting = waiting[size:]
        return waiting

    def _train_alone(self, lanes: Sequence[DueLane], failures: dict[Trainer, Exception]) -> None:
        for lane in lanes:
            trainer = lane.trainer
            if trainer in failures:
                continue
            trainer.optimizer.clear_gradients()  # those of packs still stand there
            with recomputed_layers(trainer.adapted.model, trainer.settings.gradient_checkpointing):
                try:
                    trainer.add_pass(trainer.train_lane(lane.position, lane.lane, lane.due))
                except Exception as error:  # noqa: BLE001 - it ends its cell alone, whatever it is
                    failures[trainer] = error

    def _add_gradients(self, packed: LanePack, lanes: Sequence[DueLane]) -> Tensor:
        """One forward and backward pass of all slots; returns their losses `[slots]`."""
        packed.pack.rows.link_gradients()
        settings = lanes[0].trainer.settings
        with recomputed_layers(packed.pack.model, settings.gradient_checkpointing):
            losses = self._pass(packed.pack, lanes)
        if not self._compared and len(lanes) > 1:
            self._compare(packed, lanes[-1])
        return losses

    def _pass(self, pack: Pack, lanes: Sequence[DueLane]) -> Tensor:
        """Passes of all slots, one for every micro-batch; returns their losses `[slots]`."""
        drops = any(lane.trainer.method.config.dropout for lane in lanes)
        generators = [lane.trainer.dropout(lane.lane) for lane in lanes] if drops else None
        most = lanes[0].trainer.settings.micro_batch_size
        losses: list[Tensor] = []
        for parts in zip(*(lane.due.batch.parts(most) for lane in lanes), strict=True):
            losses.append(self._add_pass(pack, lanes, parts, generators, adds=bool(losses)))
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)

    @staticmethod
    def _add_pass(
        pack: Pack,
        lanes: Sequence[DueLane],
        parts: Sequence[Batch],
        generators: Sequence[torch.Generator] | None,
        *,
        adds: bool,
    ) -> Tensor:
        """One pass with these parts of the slots' batches."""
        first = lanes[0].trainer
        whole = joined(parts, first.batches.pad_token_id, left=first.batches.pads_left)
        on_device = torch.device(first.batches.device).type != "cpu"
        with pack.passing(whole.rows, generators, adds=adds), known_padding(whole, on=on_device):
            losses = pack.losses(example_losses(pack.model, whole, first.loss), lanes[0].due.batch_size)
            penalties = [None if adds else lane.trainer.method.penalty(lane.lane) for lane in lanes]
            if any(penalty is not None for penalty in penalties):
                losses = losses + torch.stack([losses.new_zeros(()) if p is None else p for p in penalties])
            torch.autograd.backward(losses.sum())
        return losses.detach()

    @staticmethod
    def _update(packed: LanePack, lanes: Sequence[DueLane], losses: Tensor) -> None:
        """Clips the gradients of every slot and takes an optimizer step with them."""
        for lane in lanes:
            lane.trainer.method.observe(lane.lane)
        norms = packed.optimizer.step(losses)
        numbers = zip(lanes, packed.acting_parameters, losses.unbind(), norms.unbind(), strict=True)
        for due, acting, loss, norm in numbers:
            trainer, size = due.trainer, due.due.batch.size
            trainer.method.stepped(trainer.step + 1)
            trainer.add_pass(LanePass(trainer.step, due.position, due.lane.index, acting, size[0], size, loss, norm))

    def _compare(self, packed: LanePack, last: DueLane) -> None:
        """Compares the last slot's gradient with that of its lane alone, once: a model may divide its input in ways
        that no shape shows.

        Raises:
            NotPackableError: they differ.
        """
        of_slot = packed.pack.rows.gradients[-1]
        in_pack = of_slot.clone()
        of_slot.zero_()
        last.trainer.add_gradients(last.lane, last.due.batch, last.due.batch_size)
        difference = float((in_pack - of_slot).norm() / of_slot.norm().clamp(min=torch.finfo(of_slot.dtype).tiny))
        of_slot.copy_(in_pack)
        if difference > LARGEST_DIFFERENCE:
            raise NotPackableError(
                f"the gradient of a slot differs by {difference:.0%} from that of its lane alone: "
                f"{type(packed.pack.model).__name__} does not keep the examples of its slots apart"
            )
        self._compared = True

    # The division into packs.

    def _can_be_packed(self, lane: DueLane) -> bool:
        if lane.slot not in self._packable:
            trainer = lane.trainer
            possible = can_be_packed(trainer.adapted, lane.lane) and not trainer.method.watches(lane.lane)
            self._packable[lane.slot] = possible and not (trainer.settings.pack_sequences and _reads_texts(trainer))
        return self._packable[lane.slot]

    def _pack_of(self, lanes: Sequence[DueLane]) -> LanePack:
        """The pack of these lanes; a new one where they have been divided otherwise before."""
        slots = tuple(lane.slot for lane in lanes)
        for packed in self._packs:
            if packed.slots == slots:
                return packed
        if any(set(slots) & set(packed.slots) for packed in self._packs):
            self._packs.clear()
        if not self._packs:
            self._published.clear()
        pack = Pack([Slot(self._row_of(trainer), lane) for trainer, lane in slots], self._published)
        acting = tuple(trainer.adapted.acting_parameters(lane) for trainer, lane in slots)
        packed = LanePack(slots, pack, PackOptimizer(pack, [trainer.optimizer for trainer, _ in slots]), acting)
        self._packs.append(packed)
        return packed

    def _row_of(self, trainer: Trainer) -> AdaptedModel:
        """The cell's model, whose published values stand in one row from now on."""
        adapted = trainer.adapted
        assert isinstance(adapted, AdaptedModel)  # or no lane could be packed
        if adapted not in self._published:
            self._published[adapted] = PublishedRow(adapted)
        return adapted

    def _slots(self, waiting: Sequence[DueLane]) -> int:
        """Most slots of a pass."""
        if self.most_slots is None:
            on_gpu = torch.device(waiting[0].trainer.batches.device).type == "cuda"
            self.most_slots = self._measured(waiting[:2]) if on_gpu else 1
        return self.most_slots

    def _measured(self, two: Sequence[DueLane]) -> int:
        """How many slots fit, from the memory that passes of one and two need on a batch of the longest examples."""
        batches = two[0].trainer.batches
        device, widest = str(batches.device), batches.widest()
        longest = [
            DueLane(lane.trainer, lane.position, lane.lane, DueStep([], widest, len(widest.labels))) for lane in two
        ]
        peaks = []
        for lanes in (longest[:1], longest):
            packed = self._pack_of(lanes)
            reset_peak_memory(device)
            try:
                self._add_gradients(packed, lanes)
            except (torch.OutOfMemoryError, NotPackableError):
                self._shrink(1, two[0].trainer)
                return 1
            peaks.append(peak_memory(device))
        self._packs.clear()
        one, both = peaks
        return slots_that_fit(one, both, memory_within_reach(device))

    def _shrink(self, most: int, trainer: Trainer) -> None:
        """Goes on with smaller packs, and gives the memory of the device back that `trainer` uses."""
        self.most_slots = max(1, most)
        self._packs.clear()
        free_memory(str(trainer.batches.device))


def _reads_texts(trainer: Trainer) -> bool:
    """Whether a model reads what shares rows text by text: in attention, or in an adapted output embedding."""
    model: Any = trainer.adapted.model
    return trainer.batches.one_row or isinstance(model.get_output_embeddings(), AdaptedLinear)
