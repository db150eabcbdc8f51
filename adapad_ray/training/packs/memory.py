"""How many slots a device's memory holds."""

from __future__ import annotations

KEPT_FREE = 0.1
"""Share of the memory that stays unused: batches differ, and the allocator loses some (a project default)."""


def slots_that_fit(one: int, two: int, within_reach: int) -> int:
    """Return how many slots of a pack fit into memory, at least 1.

    Args:
        one: bytes in use at the peak of a pass of one slot.
        two: the same of two slots.
        within_reach: bytes that the process may use.
    """
    each = max(1, two - one)
    return max(1, int(((1 - KEPT_FREE) * within_reach - one) // each) + 1)
