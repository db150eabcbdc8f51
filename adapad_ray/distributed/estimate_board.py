"""The estimate board: where in the object store each version of each lane's estimate is.

A lane is one prefix model in training, and its estimate is the last value that it published. The board keeps references
and version numbers, never values: workers put flat arrays into the object store and fetch them from there. Every
attempt at a cell has a board of its own, identified by the attempt's generation.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BoardReply:
    """The answer to a worker, once everything it asked for is there."""

    references: Any
    """Of a swap: lane → a list of one reference. Of a gather: such a list for every rank."""
    checkpoint: int
    """The version at which rank 0 last asked all workers to gather for a checkpoint; 0: none."""
    waited: float
    """Seconds until the last reference was there."""


class EstimateBoard:
    """An asyncio actor, one for each attempt at a cell. A reply of None means that the attempt has ended.

    References are passed in lists of one, because Ray replaces bare ones by their values.
    """

    def __init__(self, generation: int, workers: int) -> None:
        self._generation, self._workers = generation, workers
        self._estimates: dict[tuple[int, int], list[Any]] = {}
        """(lane, version) → reference."""
        self._shares: dict[int, dict[int, list[Any]]] = {}
        """Version → rank → reference."""
        self._completed = [0] * workers
        """Rank → rounds done."""
        self._checkpoint = 0
        self._closed = False
        self._changed = asyncio.Condition()

    async def swap(
        self,
        generation: int,
        rank: int,
        version: int,
        mine: Mapping[int, list[Any]],
        wanted: Sequence[int],
        wanted_version: int,
        staleness: int,
        checkpoint: int,
    ) -> BoardReply | None:
        """Store a worker's estimates of `version`, and return others' of `wanted_version` once they are there.

        A worker waits until every other one is at most `staleness + 1` rounds behind it.
        """
        if not self._accepts(generation, rank):
            return None
        if rank == 0:
            self._checkpoint = checkpoint
        self._estimates |= {(lane, version): reference for lane, reference in mine.items()}
        keys = [(lane, wanted_version) for lane in wanted]

        def ready() -> bool:
            return min(self._completed) >= version - staleness - 1 and all(key in self._estimates for key in keys)

        waited = await self._complete(rank, version, ready)
        if waited is None:
            return None
        references = {lane: self._estimates[lane, wanted_version] for lane in wanted}
        # A worker that has done v rounds no longer reads a version before v - staleness.
        self._forget(min(self._completed) - staleness)
        return BoardReply(references, self._checkpoint, waited)

    async def gather(self, generation: int, rank: int, version: int, share: list[Any]) -> BoardReply | None:
        """Store a worker's share of the state at the end of round `version`, and return all shares, by rank."""
        if not self._accepts(generation, rank):
            return None
        shares = self._shares.setdefault(version, {})
        shares[rank] = share
        waited = await self._complete(rank, version, lambda: len(shares) == self._workers)
        if waited is None:
            return None
        # All shares are here, so no worker reads a version up to this one again. Each waiting call holds `shares`.
        self._shares.pop(version, None)
        self._forget(version + 1)
        return BoardReply([shares[r] for r in range(self._workers)], self._checkpoint, waited)

    async def close(self) -> None:
        """End the attempt: waiting and later calls return None."""
        self._closed = True
        async with self._changed:
            self._changed.notify_all()

    def _accepts(self, generation: int, rank: int) -> bool:
        return generation == self._generation and 0 <= rank < self._workers

    def _forget(self, oldest: int) -> None:
        """Drop the estimates of versions before `oldest`."""
        self._estimates = {key: value for key, value in self._estimates.items() if key[1] >= oldest}

    async def _complete(self, rank: int, version: int, ready: Callable[[], bool]) -> float | None:
        """Record that a worker has done `version` rounds, and return the seconds until `ready`; None: attempt ended."""
        began = time.monotonic()
        async with self._changed:
            self._completed[rank] = version
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._closed or ready())
        return None if self._closed else time.monotonic() - began
