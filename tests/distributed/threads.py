"""Workers in threads of one process: the real estimate board without Ray, and sums without a process group."""

from __future__ import annotations

import asyncio
import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from adapad_ray.distributed.estimate_board import EstimateBoard
from adapad_ray.testing import MethodCase
from adapad_ray.training.checkpoint import Checkpointer
from adapad_ray.training.workers import AttemptLostError, ComponentParallel, DataParallel, Exchange, Share


class ThreadExchange(Exchange):
    """Estimates are sent as copies of tensors; the board is the real one."""

    def __init__(self, board, loop, rank, workers):
        super().__init__(rank, workers)
        self.board, self.loop = board, loop

    def swap(self, version, mine, wanted, wanted_version, staleness, checkpoint):
        mine = {lane: [estimate.clone()] for lane, estimate in mine.items()}
        reply = self._call(self.board.swap(1, self.rank, version, mine, wanted, wanted_version, staleness, checkpoint))
        self.traffic.bytes_fetched += sum(r[0].nbytes for r in reply.references.values())
        return {lane: reference[0] for lane, reference in reply.references.items()}, reply.checkpoint

    def gather(self, version, share):
        mine = Share({name: tensor.clone() for name, tensor in share.tensors.items()}, copy.deepcopy(share.meta))
        return [reference[0] for reference in self._call(self.board.gather(1, self.rank, version, [mine])).references]

    def _call(self, coroutine):
        reply = asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()
        if reply is None:
            raise AttemptLostError("the board is closed")
        return reply


class ThreadReplica(DataParallel):
    """Sums, in the order of the ranks, what all threads hold."""

    def __init__(self, exchange, barrier, held):
        super().__init__(exchange)
        self.barrier, self.held = barrier, held

    def all_reduce(self, flat):
        self.held[self.rank] = flat.clone()
        try:
            self.barrier.wait()
            flat.copy_(torch.stack([self.held[rank] for rank in range(self.count)]).sum(0))
            self.barrier.wait()
        except threading.BrokenBarrierError as error:
            raise AttemptLostError("another thread has failed") from error


class Connections:
    """What connects the workers of one cell. A context manager; `close` ends the attempt for all of them."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.board, self.loop = EstimateBoard(1, workers), asyncio.new_event_loop()
        self.barrier, self.held = threading.Barrier(workers), {}
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def exchange(self, rank: int) -> ThreadExchange:
        return ThreadExchange(self.board, self.loop, rank, self.workers)

    def component_parallel(self, rank: int) -> ComponentParallel:
        return ComponentParallel(self.exchange(rank))

    def data_parallel(self, rank: int) -> ThreadReplica:
        return ThreadReplica(self.exchange(rank), self.barrier, self.held)

    def close(self) -> None:
        self.barrier.abort()
        asyncio.run_coroutine_threadsafe(self.board.close(), self.loop).result()


def train_together(
    case: MethodCase,
    workers: int,
    resume=None,
    prepare=lambda trainers: None,
    checkpoint=None,
    policy=None,
    **run,
):
    """Trains a case with several workers, after `prepare` has seen them; returns their trainers, by rank."""
    with Connections(workers) as connections:
        data = case.make().parallel == "data"
        form = connections.data_parallel if data else connections.component_parallel
        # Made one after the other: the backbone's weights come from torch's global generator.
        trainers = [case.trainer(workers=form(rank)) for rank in range(workers)]
        prepare(trainers)

        def work(trainer):
            if resume is None:
                trainer.start()
            else:
                trainer.resume(resume)
            try:
                trainer.run(None if checkpoint is None else Checkpointer(checkpoint, policy), **run)
            except BaseException:
                connections.close()
                raise

        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(work, trainer) for trainer in trainers]
        failures = [error for future in futures if (error := future.exception())]
        for error in sorted(failures, key=lambda error: isinstance(error, AttemptLostError)):
            raise error  # the cause before its effects on the other workers
        return trainers
