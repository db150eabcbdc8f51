"""Packs: several slots (prefix models in training) in one forward and backward pass over the same frozen backbone.

The examples of a pack stand slot by slot in the batch, `[slots · batch, …]`. Each module holds its slots' components in
stacks, A `[slots, rank, d_in]` and B `[slots, rank, d_out]`: published columns first, ranks padded with zeros. One
product with the frozen weight serves all examples, one batched product per factor serves all slots. No operation mixes
the numbers of two slots, so what is not finite stays in its slot.
"""

from adapad_ray.adapters.packs.pack import Pack
from adapad_ray.adapters.packs.published import PublishedRow
from adapad_ray.adapters.packs.slot import NotPackableError, Slot, can_be_packed

__all__ = ["NotPackableError", "Pack", "PublishedRow", "Slot", "can_be_packed"]
