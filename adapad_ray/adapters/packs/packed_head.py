"""The task heads of a pack, each slot's own, computed at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from adapad_ray.adapters.packs.flat_rows import FlatRows
from adapad_ray.adapters.packs.packed_linear import PassRows
from adapad_ray.adapters.packs.slot import NotPackableError


class PackedHead(nn.Module):
    """One head module of the model with the copies of all slots; any module without a state of its own."""

    def __init__(self, path: str, copies: Sequence[nn.Module], flat: FlatRows, rows: PassRows) -> None:
        super().__init__()
        self._path, self._flat, self._rows = path, flat, rows
        self._form = (copies[0],)
        """What a copy computes; in a tuple, so that it is not a submodule."""
        self._stacks = {
            name: flat.reserve(tuple(p.shape), range(len(copies)), by_row=False)
            for name, p in copies[0].named_parameters()
        }
        for slot, copy in enumerate(copies):
            for name, parameter in copy.named_parameters():
                flat.place(slot, parameter, self._stacks[name])

    def forward(self, x: Tensor) -> Tensor:
        """Map `[slots · batch, …]` through the copy of each example's slot."""
        if x.shape[0] != self._rows.count:
            raise NotPackableError(f"head {self._path} reads {list(x.shape)} instead of {self._rows.count} examples")
        (form,) = self._form
        parameters = {name: self._flat.leaf(stack) for name, stack in self._stacks.items()}
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        by_slot = x.reshape(self._rows.slots, -1, *x.shape[1:])
        y: Tensor = torch.vmap(lambda own, of_slot: functional_call(form, own, (of_slot,)))(parameters, by_slot)
        return y.flatten(0, 1)
