"""A lane: one model in training, defined by the components that act in it and those of them that learn."""

from __future__ import annotations

from dataclasses import dataclass

RESERVE = -1
"""Index of the lane in which the reserves learn."""


@dataclass(frozen=True)
class Lane:
    """Which blocks of every adapted module act, and which of them learn.

    Blocks are counted from 1 in the order of their activation. AdaPaD's blocks hold one component each, so block k is
    component k. Numbers above a module's last block have no effect there.
    """

    index: int
    """Number of the lane and of its task head; `RESERVE` for the reserve lane."""
    frozen: int
    """Blocks 1 … `frozen` act through their published values and receive no gradient."""
    live: tuple[int, ...] = ()
    """Blocks that act through their live values and learn."""
    reserve: bool = False
    """Whether each module's reserve acts and learns."""
    scale: float = 1.0
    """Factor on the scale of every module in this lane."""

    @classmethod
    def deflation(cls, k: int) -> Lane:
        """Lane k of deflation: components 1 … k-1 act as published, component k learns."""
        return cls(index=k, frozen=k - 1, live=(k,))

    @classmethod
    def joint(cls, blocks: int, head: int = 1) -> Lane:
        """All blocks learn together, as in plain LoRA."""
        return cls(index=head, frozen=0, live=tuple(range(1, blocks + 1)))

    @classmethod
    def reserves(cls, blocks: int) -> Lane:
        """All active blocks act as published; only the reserves learn."""
        return cls(index=RESERVE, frozen=blocks, reserve=True)

    @classmethod
    def prefix(cls, k: int, head: int | None = None) -> Lane:
        """The deployed prefix k, blocks 1 … k as published: nothing learns."""
        return cls(index=k if head is None else head, frozen=k)

    def acts(self, block: int) -> bool:
        """Whether block number `block` acts in this lane."""
        return block <= self.frozen or block in self.live
