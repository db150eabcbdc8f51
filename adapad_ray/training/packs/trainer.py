"""The training of a cell whose lanes share passes: as many slots in a pack as fit, pack after pack.

The result is that of `Trainer` up to rounding. Lanes that cannot be packed, such as one that measures gradients, train
alone after the packs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from adapad_ray.accelerator import free_memory, memory_within_reach, peak_memory, reset_peak_memory
from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.adapters.packs import NotPackableError, Pack, PublishedRow, Slot, can_be_packed
from adapad_ray.errors import BadRequestError
from adapad_ray.training.batches import Batch, joined
from adapad_ray.training.checkpoint import Checkpointer
from adapad_ray.training.packs.memory import slots_that_fit
from adapad_ray.training.packs.optimizer import PackOptimizer
from adapad_ray.training.passes.attention_masks import known_padding
from adapad_ray.training.passes.lane_passes import LanePass
from adapad_ray.training.trainer import Trainer

Lanes = Sequence[tuple[int, Lane]]
"""Lanes of a step, each with its position among all of them."""
LARGEST_DIFFERENCE = 0.5
"""Relative difference of a slot's gradient from that of its lane alone. Rounding in bf16 makes a few percent; a model
whose examples do not stand slot by slot makes another gradient."""


@dataclass(frozen=True)
class LanePack:
    """Some lanes of the cell as slots of a pack."""

    lanes: tuple[Lane, ...]
    pack: Pack
    optimizer: PackOptimizer
    acting_parameters: tuple[int, ...]


class PackedTrainer(Trainer):
    """Trains the lanes of a cell as slots of packs.

    Args:
        slots_per_pass: most lanes of one pass. `auto`: as many as a GPU's memory holds, and 1 elsewhere. Halved when a
            pass runs out of memory.
        options: as for `Trainer`.
    """

    def __init__(self, *arguments: Any, slots_per_pass: int | Literal["auto"], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._requested = slots_per_pass
        self.most_slots = None if slots_per_pass == "auto" else slots_per_pass
        """Most slots of a pass; None: not measured yet."""
        self._packs: list[LanePack] = []
        self._published: PublishedRow | None = None
        self._packable: dict[Lane, bool] = {}
        self._compared = False

    def _train_lanes(self, lanes: Lanes, batch: Batch, batch_size: int) -> Iterator[LanePass]:
        waiting = [(position, lane) for position, lane in lanes if self._can_be_packed(lane)]
        alone = [numbered for numbered in lanes if numbered not in waiting]
        while len(waiting) > 1 and (most := self._slots(waiting)) > 1:
            packs = -(-len(waiting) // most)
            size = -(-len(waiting) // packs)
            try:
                packed = self._pack_of(waiting[:size])
                losses = self._add_pack_gradients(packed, batch, batch_size)
            except torch.OutOfMemoryError:
                self._shrink(size // 2)
            except NotPackableError as error:
                if self._requested != "auto":
                    raise BadRequestError(f"resources.slots_per_pass is {most}: {error}: set it to 1") from error
                self._shrink(1)
            else:
                yield from self._update_pack(packed, waiting[:size], losses, batch.size)
                waiting = waiting[size:]
        if waiting or alone:
            self.optimizer.clear_gradients()  # those of packs still stand there
            yield from super()._train_lanes([*waiting, *alone], batch, batch_size)

    def _add_pack_gradients(self, packed: LanePack, batch: Batch, batch_size: int) -> Tensor:
        """One forward and backward pass of all slots; returns their losses `[slots]`."""
        pack = packed.pack
        pack.rows.link_gradients()
        losses = self._pack_pass(pack, batch, batch_size)
        if not self._compared and len(packed.lanes) > 1:
            self._compare(packed, batch, batch_size)
        return losses

    def _pack_pass(self, pack: Pack, batch: Batch, batch_size: int) -> Tensor:
        lanes = [slot.lane for slot in pack.slots]
        whole = joined([batch] * len(lanes), self.batches.pad_token_id)
        generators = [self._dropout(lane) for lane in lanes] if self.method.config.dropout else None
        on_device = torch.device(self.batches.device).type != "cpu"
        with pack.passing(len(whole.labels), generators), known_padding(whole, on=on_device):
            losses = pack.losses(self._loss(self.adapted.model(**whole.inputs), whole.labels), batch_size)
            penalties = [self.method.penalty(lane) for lane in lanes]
            if any(penalty is not None for penalty in penalties):
                losses = losses + torch.stack([losses.new_zeros(()) if p is None else p for p in penalties])
            torch.autograd.backward(losses.sum())
        return losses.detach()

    def _update_pack(self, packed: LanePack, lanes: Lanes, losses: Tensor, size: tuple[int, int]) -> Iterator[LanePass]:
        """Clips the gradients of every slot and takes an optimizer step with them."""
        for lane in packed.lanes:
            self.method.observe(lane)
        norms = packed.optimizer.step(losses)
        numbers = zip(lanes, packed.acting_parameters, losses.unbind(), norms.unbind(), strict=True)
        for (position, lane), acting, loss, norm in numbers:
            self.method.stepped(self.step + 1)
            yield LanePass(self.step, position, lane.index, acting, size[0], size, loss, norm)

    def _compare(self, packed: LanePack, batch: Batch, batch_size: int) -> None:
        """Compares the last slot's gradient with that of its lane alone, once: a model may divide its input in ways
        that no shape shows.

        Raises:
            NotPackableError: they differ.
        """
        of_slot = packed.pack.rows.gradients[-1]
        in_pack = of_slot.clone()
        of_slot.zero_()
        self._add_gradients(packed.lanes[-1], batch, batch_size)
        difference = float((in_pack - of_slot).norm() / of_slot.norm().clamp(min=torch.finfo(of_slot.dtype).tiny))
        of_slot.copy_(in_pack)
        if difference > LARGEST_DIFFERENCE:
            raise NotPackableError(
                f"the gradient of a slot differs by {difference:.0%} from that of its lane alone: "
                f"{type(self.adapted.model).__name__} does not keep the examples of its slots apart"
            )
        self._compared = True

    # The division into packs.

    def _can_be_packed(self, lane: Lane) -> bool:
        if lane not in self._packable:
            self._packable[lane] = can_be_packed(self.adapted, lane)
        return self._packable[lane]

    def _pack_of(self, numbered: Lanes) -> LanePack:
        """The pack of these lanes; a new one where they have been divided otherwise before."""
        lanes = tuple(lane for _, lane in numbered)
        for packed in self._packs:
            if packed.lanes == lanes:
                return packed
        if any(set(lanes) & set(packed.lanes) for packed in self._packs):
            self._packs.clear()
        assert isinstance(self.adapted, AdaptedModel)  # or no lane could be packed
        if not self._packs or self._published is None:
            self._published = PublishedRow(self.adapted)
        pack = Pack([Slot(self.adapted, lane) for lane in lanes], {self.adapted: self._published})
        acting = tuple(self.adapted.acting_parameters(lane) for lane in lanes)
        packed = LanePack(lanes, pack, PackOptimizer(pack, [self.optimizer] * len(lanes)), acting)
        self._packs.append(packed)
        return packed

    def _slots(self, waiting: Lanes) -> int:
        """Most slots of a pass."""
        if self.most_slots is None:
            self.most_slots = self._measured(waiting[:2]) if torch.device(self.batches.device).type == "cuda" else 1
        return self.most_slots

    def _measured(self, two: Lanes) -> int:
        """How many slots fit, from the memory that passes of one and two need on a batch of the longest examples."""
        batch, device = self.batches.widest(), str(self.batches.device)
        peaks = []
        for lanes in (two[:1], two):
            packed = self._pack_of(lanes)
            reset_peak_memory(device)
            try:
                self._add_pack_gradients(packed, batch, len(batch.labels))
            except (torch.OutOfMemoryError, NotPackableError):
                self._shrink(1)
                return 1
            peaks.append(peak_memory(device))
        self._packs.clear()
        one, both = peaks
        return slots_that_fit(one, both, memory_within_reach(device))

    def _shrink(self, most: int) -> None:
        """Goes on with smaller packs."""
        self.most_slots = max(1, most)
        self._packs.clear()
        free_memory(str(self.batches.device))

    # The end of a round.

    def _end_round(self, checkpointer: Checkpointer | None) -> None:
        super()._end_round(checkpointer)
        for packed in self._packs:
            packed.pack.frozen.refresh()

    def _grow(self) -> None:
        if self.method.grows(self.step):
            self._packs.clear()
            self._packable.clear()
        super()._grow()
