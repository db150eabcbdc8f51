"""The real board, reached from threads of one process instead of through Ray: quick enough for many cases."""

import asyncio
import copy
import threading
from concurrent.futures import ThreadPoolExecutor

from adapad_ray.distributed.estimate_board import EstimateBoard
from adapad_ray.testing import MethodCase
from adapad_ray.training.workers import AttemptLostError, Exchange, Share


class ThreadExchange(Exchange):
    """Estimates travel as tensors' copies; everything else is the board's."""

    def __init__(self, board, loop, rank, workers):
        super().__init__(rank, workers)
        self.board, self.loop = board, loop

    def swap(self, version, mine, wanted, wanted_version, staleness, checkpoint):
        mine = {lane: [estimate.clone()] for lane, estimate in mine.items()}
        reply = self._ask(self.board.swap(1, self.rank, version, mine, wanted, wanted_version, staleness, checkpoint))
        self.traffic.bytes_fetched += sum(r[0].nbytes for r in reply.references.values())
        return {lane: reference[0] for lane, reference in reply.references.items()}, reply.checkpoint

    def gather(self, version, share):
        mine = Share({name: tensor.clone() for name, tensor in share.tensors.items()}, copy.deepcopy(share.meta))
        return [reference[0] for reference in self._ask(self.board.gather(1, self.rank, version, [mine])).references]

    def _ask(self, coroutine):
        reply = asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()
        if reply is None:
            raise AttemptLostError("the board is closed")
        return reply


def train_together(case: MethodCase, workers: int, resume=None, prepare=lambda trainers: None, **run):
    """Trains a case with several workers, after `prepare` has seen them; returns their trainers, by rank."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    board = EstimateBoard(1, workers)

    # Made one after the other: the backbone's weights come from torch's global generator.
    trainers = [case.trainer(exchange=ThreadExchange(board, loop, rank, workers)) for rank in range(workers)]
    prepare(trainers)

    def work(trainer):
        if resume is None:
            trainer.start()
        else:
            trainer.resume(resume)
        try:
            trainer.run(**run)
        except BaseException:
            asyncio.run_coroutine_threadsafe(board.close(), loop).result()
            raise

    try:
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(work, trainer) for trainer in trainers]
        failures = [error for future in futures if (error := future.exception())]
        for error in sorted(failures, key=lambda error: isinstance(error, AttemptLostError)):
            raise error  # what went wrong, before what it did to the others
        return trainers
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
