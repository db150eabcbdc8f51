"""How one worker of a cell shares the training with the others: alone, by lanes, or by the examples of a batch.

The trainer runs the same loop in every worker. What differs between the three forms are the methods of `Workers`:

    Alone              trains every lane on every example
    ComponentParallel  trains some of the lanes and reads the estimates of the others through an `Exchange`
    DataParallel       trains every lane on some of the examples and sums the gradients over torch's process group
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from adapad_ray.training.record import Counts


class AttemptLostError(RuntimeError):
    """Another worker of the cell, or the connection to it, is gone: this attempt ends, and another one resumes it."""


@dataclass
class Share:
    """What one worker sends to all others when they gather: tensors by name, and any picklable value beside them."""

    tensors: dict[str, Tensor]
    meta: Any


@dataclass
class Traffic:
    """What communication has cost this worker so far."""

    exchange_seconds: float = 0.0
    """Own work: serialising, calls, copies. Waiting is apart."""
    wait_seconds: float = 0.0
    """Time in which other workers were not ready."""
    bytes_published: int = 0
    bytes_fetched: int = 0


class Exchange(ABC):
    """The connection of one worker to the other workers of its cell."""

    def __init__(self, rank: int, workers: int) -> None:
        self.rank, self.workers = rank, workers
        self.traffic = Traffic()

    @abstractmethod
    def swap(
        self,
        version: int,
        mine: Mapping[int, Tensor],
        wanted: Sequence[int],
        wanted_version: int,
        staleness: int,
        checkpoint: int,
    ) -> tuple[Mapping[int, Tensor], int]:
        """Publishes estimates as `version`, waits for the `wanted` ones of `wanted_version` and returns them.

        `checkpoint` is the version at which all workers gather for a checkpoint. Rank 0 sets it, other values are
        ignored, and every worker gets it back. No worker is more than `staleness + 1` rounds ahead of another, so a
        value at least `staleness + 2` versions ahead reaches all of them in time.

        Raises:
            AttemptLostError: another worker is gone.
        """

    @abstractmethod
    def gather(self, version: int, share: Share) -> list[Share]:
        """Every worker's share, by rank; all workers call this at the end of the same round.

        Raises:
            AttemptLostError: another worker is gone.
        """


class Workers:
    """One worker's part in the training of a cell. The defaults are those of a single worker."""

    rank = 0
    count = 1
    complete = True
    """Whether this worker holds the whole state after every step, so that nothing has to be gathered."""
    replicas = 1
    """Workers that see different examples of the same batch; their losses and gradients are summed."""
    dropout_key: tuple[int, ...] = ()
    """What the seed of the dropout depends on beside the cell's seed, the step and the lane."""

    def __init__(self) -> None:
        self.traffic = Traffic()

    @property
    def leads(self) -> bool:
        """Whether this worker saves checkpoints, evaluates and writes the result: rank 0 does."""
        return self.rank == 0

    def trains(self, position: int) -> bool:
        """Whether this worker trains the lane at `position` (from 1; the joint tail has position 0)."""
        return True

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """The examples of a batch that this worker sees."""
        return rows

    def reduce(
        self, loss: Tensor, size: tuple[int, int], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, tuple[int, int] | tuple[Tensor, Tensor]]:
        """Loss and size `(tokens, padded tokens)` of the whole batch; gradients of `parameters` are summed in place.

        A size that is summed over workers stays on the device, as the loss does.

        Raises:
            AttemptLostError: another worker is gone.
        """
        return loss, size

    def gathers_at(self, version: int) -> bool:
        """Whether all workers bring their state together at the end of round `version`, whatever the method needs."""
        return True

    def swap(
        self,
        version: int,
        mine: Mapping[int, Tensor],
        wanted: Sequence[int],
        wanted_version: int,
        *,
        staleness: int,
        checkpoint_due: bool,
    ) -> Mapping[int, Tensor]:
        """Ends a round without gathering: publishes `mine` as `version` and returns the `wanted` estimates.

        `checkpoint_due` makes all workers gather in one of the coming rounds; only that of rank 0 counts.

        Raises:
            AttemptLostError: another worker is gone.
        """
        return {}

    def gather(self, version: int, counts: Counts, lanes: Callable[[], Share]) -> list[tuple[Counts, Share]]:
        """What the other workers have counted and trained, in exchange for `counts` and `lanes()` of this one.

        Raises:
            AttemptLostError: another worker is gone.
        """
        return []

    def collect(self, version: int, share: Share) -> list[Share]:
        """Every worker's share, by rank, this one's included; before the training or after it.

        Raises:
            AttemptLostError: another worker is gone.
        """
        return [share]


class Alone(Workers):
    """A single worker: it trains every lane on every example."""


class ComponentParallel(Workers):
    """Every worker owns some of the lanes and sees every example.

    Lanes are dealt round-robin, so the owner of a lane depends on its position alone. Workers publish their estimates
    at the end of every round and gather the whole state only where the structure may change, for checkpoints and at
    the end.
    """

    complete = False

    def __init__(self, exchange: Exchange) -> None:
        self.rank, self.count = exchange.rank, exchange.workers
        self.traffic = exchange.traffic
        self._exchange = exchange
        self._checkpoint = 0
        """Version at which all gather for a checkpoint, as rank 0 last announced it."""

    def owner(self, position: int) -> int:
        """Rank of the worker that trains the lane at `position`."""
        return position % self.count

    def trains(self, position: int) -> bool:
        return self.owner(position) == self.rank

    def gathers_at(self, version: int) -> bool:
        return version == self._checkpoint

    def swap(
        self,
        version: int,
        mine: Mapping[int, Tensor],
        wanted: Sequence[int],
        wanted_version: int,
        *,
        staleness: int,
        checkpoint_due: bool,
    ) -> Mapping[int, Tensor]:
        if checkpoint_due and self._checkpoint < version:
            self._checkpoint = version + staleness + 2
        fetched, self._checkpoint = self._exchange.swap(
            version, mine, wanted, wanted_version, staleness, self._checkpoint
        )
        return fetched

    def gather(self, version: int, counts: Counts, lanes: Callable[[], Share]) -> list[tuple[Counts, Share]]:
        mine = lanes()
        shares = self._exchange.gather(version, Share(mine.tensors, (self._checkpoint, counts, mine.meta)))
        self._checkpoint = shares[0].meta[0]
        others = [share for rank, share in enumerate(shares) if rank != self.rank]
        return [(share.meta[1], Share(share.tensors, share.meta[2])) for share in others]

    def collect(self, version: int, share: Share) -> list[Share]:
        return self._exchange.gather(version, share)


class DataParallel(Workers):
    """Every worker trains all lanes on a part of every batch; `batch_size` is that of the whole batch.

    Only the gradients of learning parameters travel, in one flat all-reduce over torch's process group. The `exchange`
    serves what happens before and after the training.
    """

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self.rank = exchange.rank
        self.count = self.replicas = exchange.workers
        self.dropout_key = (exchange.rank,)
        self._exchange = exchange

    def rows(self, rows: np.ndarray) -> np.ndarray:
        return rows[self.rank :: self.count]

    def reduce(
        self, loss: Tensor, size: tuple[int, int], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        began = time.perf_counter()
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in parameters if p.grad is not None]
        head = torch.stack([loss.detach(), *(torch.full_like(loss, n) for n in size)])
        flat = torch.cat([head.to(gradients[0]), *(g.flatten() for g in gradients)])
        self.all_reduce(flat)
        parts = torch.split(flat[len(head) :], [g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])
        self.traffic.bytes_published += flat.numel() * flat.element_size()
        self.traffic.bytes_fetched += flat.numel() * flat.element_size()
        self.traffic.exchange_seconds += time.perf_counter() - began
        loss, tokens, padded_tokens = flat[: len(head)].clone()  # the rest of `flat` is freed
        return loss, (tokens, padded_tokens)

    def all_reduce(self, flat: Tensor) -> None:
        """Sums `flat` over all workers, in place."""
        try:
            torch.distributed.all_reduce(flat)
        except RuntimeError as error:  # gloo and NCCL raise no class of their own
            raise AttemptLostError(
                f"another worker of the cell is gone (seen by worker {self.rank}): {error}"
            ) from error

    def collect(self, version: int, share: Share) -> list[Share]:
        return self._exchange.gather(version, share)
