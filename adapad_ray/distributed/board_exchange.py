"""The exchange between the workers of one cell through Ray's object store and an estimate board."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from torch import Tensor

from adapad_ray.training.workers import AttemptLostError, Exchange, Share


class BoardExchange(Exchange):
    """One worker's connection to the `board` actor of its attempt, which keeps references to the stored values.

    A lane's estimate is one flat numpy array. Its owner puts it into the object store, and the workers of the lanes
    above fetch it from there, zero-copy and read-only. A worker keeps the references of its puts, and so the values,
    until no worker can read them any more.
    """

    def __init__(self, board: ray.actor.ActorHandle, generation: int, rank: int, workers: int) -> None:
        super().__init__(rank, workers)
        self._board, self._generation = board, generation
        self._kept: deque[Any] = deque()

    def swap(
        self,
        version: int,
        mine: Mapping[int, Tensor],
        wanted: Sequence[int],
        wanted_version: int,
        staleness: int,
        checkpoint: int,
    ) -> tuple[Mapping[int, Tensor], int]:
        began = time.perf_counter()
        arrays = {lane: estimate.cpu().numpy() for lane, estimate in mine.items()}
        references = {lane: [ray.put(array)] for lane, array in arrays.items()}
        self._keep(references, 2 * staleness + 3)
        reply = self._call("swap", version, references, list(wanted), wanted_version, staleness, checkpoint)
        fetched: dict[int, np.ndarray] = {lane: self._get(reference[0]) for lane, reference in reply.references.items()}
        # torch.tensor copies: the memory of the object store is read-only.
        estimates = {lane: torch.tensor(array) for lane, array in fetched.items()}
        self._account(began, reply.waited, arrays.values(), fetched.values())
        return estimates, reply.checkpoint

    def gather(self, version: int, share: Share) -> list[Share]:
        began = time.perf_counter()
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in share.tensors.items()}
        reference = [ray.put((arrays, share.meta))]
        self._keep(reference, 2)
        reply = self._call("gather", version, reference)
        shares, fetched = [], []
        for rank, (other,) in enumerate(reply.references):
            if rank == self.rank:
                shares.append(share)
                continue
            theirs, meta = self._get(other)
            fetched += theirs.values()
            shares.append(Share({name: torch.tensor(array) for name, array in theirs.items()}, meta))
        self._account(began, reply.waited, arrays.values(), fetched)
        return shares

    def _keep(self, references: Any, count: int) -> None:
        self._kept.append(references)
        while len(self._kept) > count:
            self._kept.popleft()

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            reply = ray.get(getattr(self._board, method).remote(self._generation, self.rank, *arguments))
        except RayActorError as error:
            raise AttemptLostError(f"the estimate board of generation {self._generation} is gone: {error}") from error
        if reply is None:
            raise AttemptLostError(f"the attempt of generation {self._generation} has ended")
        return reply

    @staticmethod
    def _get(reference: ray.ObjectRef) -> Any:
        try:
            return ray.get(reference, timeout=120)
        except (RayError, GetTimeoutError) as error:
            raise AttemptLostError(f"an estimate cannot be fetched because its worker is gone: {error}") from error

    def _account(self, began: float, waited: float, sent: Any, received: Any) -> None:
        traffic = self.traffic
        traffic.wait_seconds += waited
        traffic.exchange_seconds += time.perf_counter() - began - waited
        traffic.bytes_published += sum(array.nbytes for array in sent)
        traffic.bytes_fetched += sum(array.nbytes for array in received)
