"""The estimate board: which version of which lane's estimate lies where in the object store.

The board keeps references and version numbers, never values: workers put flat arrays into the object store and fetch
them from there. Every attempt at a cell has a board of its own, named by a generation number.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What a worker is told once everything it asked for is there."""

    references: Any
    """Of a swap: lane → reference in a list of one; of a gather: every rank's, likewise in lists."""
    checkpoint: int
    """The version at which rank 0 wants all to gather, as last said."""
    waited: float
    """Seconds in which something was not there yet."""


class EstimateBoard:
    """An asyncio actor, one for each attempt at a cell; `None` as a reply means that the attempt has ended.

    References come and go in lists of one, because Ray would replace bare ones by their values.
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
    ) -> Reply | None:
        """Takes a worker's estimates of `version`; returns others' as of `wanted_version` once they are there."""
        if not self._knows(generation, rank):
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
        # Who has done v rounds reads no version before v - staleness any more.
        self._forget(min(self._completed) - staleness)
        return Reply(references, self._checkpoint, waited)

    async def gather(self, generation: int, rank: int, version: int, share: list[Any]) -> Reply | None:
        """Takes a worker's share of the state at the end of round `version`; returns everybody's."""
        if not self._knows(generation, rank):
            return None
        shares = self._shares.setdefault(version, {})
        shares[rank] = share
        waited = await self._complete(rank, version, lambda: len(shares) == self._workers)
        if waited is None:
            return None
        # Everybody's share has come, so nobody reads a version up to this one any more; each call here holds `shares`.
        self._shares.pop(version, None)
        self._forget(version + 1)
        return Reply([shares[r] for r in range(self._workers)], self._checkpoint, waited)

    async def close(self) -> None:
        """Ends the attempt: whoever waits, or asks from now on, is told so."""
        self._closed = True
        async with self._changed:
            self._changed.notify_all()

    def _knows(self, generation: int, rank: int) -> bool:
        return generation == self._generation and 0 <= rank < self._workers

    def _forget(self, oldest: int) -> None:
        """Drops the estimates of versions before `oldest`."""
        self._estimates = {key: value for key, value in self._estimates.items() if key[1] >= oldest}

    async def _complete(self, rank: int, version: int, ready: Callable[[], bool]) -> float | None:
        """Notes that a worker has done `version` rounds and waits until `ready`; None if the attempt has ended."""
        began = time.monotonic()
        async with self._changed:
            self._completed[rank] = version
            self._changed.notify_all()
            await self._changed.wait_for(lambda: self._closed or ready())
        return None if self._closed else time.monotonic() - began
