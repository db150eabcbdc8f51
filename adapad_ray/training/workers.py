"""How the workers of one cell exchange what they have learnt; a single worker is its own company."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn


class AttemptLostError(RuntimeError):
    """A companion, or what connects the workers, is gone: this attempt at the cell ends and another one resumes it."""


@dataclass
class Share:
    """What one worker contributes when all bring their state together."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]


@dataclass
class Traffic:
    """What the exchange has cost this worker so far."""

    exchange_seconds: float = 0.0
    """Own work: serialising, calls, copies. Waiting is apart."""
    wait_seconds: float = 0.0
    """Time in which others were not ready yet."""
    bytes_published: int = 0
    bytes_fetched: int = 0


class Exchange(ABC):
    """The connection of one worker with its companions in component-parallel training.

    Lanes are dealt round-robin: the worker of a lane depends on the lane's position alone.
    """

    def __init__(self, rank: int = 0, workers: int = 1) -> None:
        self.rank, self.workers = rank, workers
        self.traffic = Traffic()

    def owner(self, position: int) -> int:
        """The rank that trains the lane at `position`."""
        return position % self.workers

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
        """Publishes estimates as `version` and returns the `wanted` ones as of `wanted_version`, waiting for them.

        `checkpoint` is the version at which rank 0 wants all to gather for a checkpoint (what others say is ignored);
        every worker gets it back. None gets further ahead of another than `staleness + 1` rounds, so that a wish for
        `staleness + 2` versions ahead reaches everybody in time.

        Raises:
            AttemptLostError: a companion is gone.
        """

    @abstractmethod
    def gather(self, version: int, share: Share) -> list[Share]:
        """Everybody's share, by rank; all workers call this at the end of the same round.

        Raises:
            AttemptLostError: a companion is gone.
        """


class Alone(Exchange):
    """One worker that owns every lane."""

    def swap(self, *args: Any) -> tuple[Mapping[int, Tensor], int]:
        raise RuntimeError("a worker alone knows every estimate")

    def gather(self, version: int, share: Share) -> list[Share]:
        return [share]


@dataclass
class Replicas:
    """Data-parallel training over torch's process group: every worker sees a part of each batch.

    Only gradients of what learns travel, in one flat all-reduce. `batch_size` is the whole batch.
    """

    rank: int = 0
    workers: int = 1
    traffic: Traffic = field(default_factory=Traffic)

    def reduce(
        self, loss: Tensor, size: tuple[int, int], parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, tuple[int, int]]:
        """Sums `loss`, the batch's `(tokens, padded tokens)` and, in place, the gradients of `parameters`.

        Raises:
            AttemptLostError: a companion is gone.
        """
        began = time.perf_counter()
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in parameters if p.grad is not None]
        head = torch.stack([loss.detach(), *(torch.tensor(float(n), device=loss.device) for n in size)])
        flat = torch.cat([head.to(gradients[0]), *(g.flatten() for g in gradients)])
        try:
            torch.distributed.all_reduce(flat)
        except RuntimeError as error:  # gloo and NCCL have no class of their own
            raise AttemptLostError(f"a companion of worker {self.rank} is gone: {error}") from error
        parts = torch.split(flat[len(head) :], [g.numel() for g in gradients])
        torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])
        self.traffic.bytes_published += flat.numel() * flat.element_size()
        self.traffic.bytes_fetched += flat.numel() * flat.element_size()
        self.traffic.exchange_seconds += time.perf_counter() - began
        return flat[0], (int(flat[1]), int(flat[2]))
