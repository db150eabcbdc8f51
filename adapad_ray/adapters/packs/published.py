"""The published components of the cells of a pack: one flat row a cell, and what of it acts in each slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.adapters.packs.slot import Slot


class PublishedRow:
    """The published values of all active blocks of one cell in one tensor, into which those of the blocks are views."""

    def __init__(self, adapted: AdaptedModel) -> None:
        self.starts: dict[tuple[str, str], int] = {}
        """(Module, `a` or `b`) → where its values begin; those of its blocks stand one below another."""
        parts: list[Tensor] = []
        width = 0
        for name, layer in adapted.layers.items():
            for side in ("a", "b"):
                self.starts[name, side] = width
                for block in layer.active():
                    parts.append(getattr(block, f"published_{side}"))
                    width += parts[-1].numel()
        self.values = torch.cat([part.flatten() for part in parts]) if parts else torch.zeros(0)
        views = iter(torch.split(self.values, [part.numel() for part in parts]))
        for layer in adapted.layers.values():
            for side in ("a", "b"):
                for block in layer.active():
                    setattr(block, f"published_{side}", next(views).view_as(getattr(block, f"published_{side}")))


def frozen_ranks(slots: Sequence[Slot], module: str) -> list[int]:
    """Return, for each slot, how many published components of `module` act there."""
    return [
        sum(block.size for block in slot.adapted.layers[module].active()[: slot.lane.frozen])
        if module in slot.adapted.layers
        else 0
        for slot in slots
    ]


@dataclass(frozen=True)
class _Cell:
    """One cell of the pack, and where its slots take their published values from."""

    row: PublishedRow
    slots: Tensor
    """int64 `[n]`."""
    source: Tensor
    """int64 `[columns]`: an element of the row for every column."""
    acts: Tensor
    """bool `[n, columns]`."""


class FrozenColumns:
    """The published components that act in each slot, as constants of its passes.

    Args:
        sizes: module → `(d_in, d_out)`, in the model's order.
        rows: the published values of every cell of the pack.
    """

    def __init__(
        self, slots: Sequence[Slot], sizes: Mapping[str, tuple[int, int]], rows: Mapping[AdaptedModel, PublishedRow]
    ) -> None:
        self._stacks: dict[str, tuple[Tensor, Tensor]] = {}
        self._cells: list[_Cell] = []
        ranks = {name: frozen_ranks(slots, name) for name in sizes}
        width = sum(max(ranks[name]) * sum(size) for name, size in sizes.items())
        if not width:
            return
        device, dtype = next((row.values.device, row.values.dtype) for row in rows.values() if row.values.numel())
        self._values = torch.zeros(len(slots), width, device=device, dtype=dtype)
        start = 0
        for name, size in sizes.items():
            rank, sides = max(ranks[name]), []
            for features in size:
                part = self._values[:, start : start + rank * features]
                sides.append(part.view(len(slots), rank, features))
                start += rank * features
            self._stacks[name] = sides[0], sides[1]
        for adapted, row in rows.items():
            own = [s for s, slot in enumerate(slots) if slot.adapted is adapted]
            if own and row.values.numel():
                self._cells.append(self._cell(row, own, ranks, sizes))
        self.refresh()

    def _cell(
        self,
        row: PublishedRow,
        own: Sequence[int],
        ranks: Mapping[str, Sequence[int]],
        sizes: Mapping[str, tuple[int, int]],
    ) -> _Cell:
        sources, acts = [], []
        for name, size in sizes.items():
            for side, features in zip("ab", size, strict=True):
                columns = torch.arange(max(ranks[name]) * features)
                acting = torch.tensor([ranks[name][s] * features for s in own])
                sources.append((row.starts.get((name, side), 0) + columns).clamp(max=row.values.numel() - 1))
                acts.append(columns < acting.unsqueeze(1))
        tensors = torch.tensor(own), torch.cat(sources), torch.cat(acts, dim=1)
        return _Cell(row, *(t.to(row.values.device, non_blocking=True) for t in tensors))

    @torch.no_grad()
    def refresh(self) -> None:
        """Read the published values again; call it when they have changed."""
        for cell in self._cells:
            values = cell.row.values.index_select(0, cell.source)
            self._values.index_copy_(0, cell.slots, torch.where(cell.acts, values, 0.0))

    def of(self, module: str) -> tuple[Tensor, Tensor] | None:
        """Return A `[slots, rank, d_in]` and B `[slots, rank, d_out]` of what acts as published; None if nothing."""
        stacks = self._stacks.get(module)
        return stacks if stacks is not None and stacks[0].shape[1] else None
