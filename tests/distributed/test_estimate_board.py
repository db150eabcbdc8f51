"""The estimate board without Ray: which calls wait, what they return, what is kept, and how an attempt ends."""

import asyncio
import random

import pytest

from adapad_ray.distributed.estimate_board import EstimateBoard

GENERATION = 7


def swap(board, rank, version, mine=(), wanted=(), staleness=0, checkpoint=0, generation=GENERATION):
    """A worker's call after round `version`; an estimate is the pair (lane, version) itself."""
    estimates = {lane: [(lane, version)] for lane in mine}
    read = max(0, version - staleness)
    return board.swap(generation, rank, version, estimates, list(wanted) if read else [], read, staleness, checkpoint)


@pytest.mark.parametrize("staleness", [0, 1, 4])
@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("slow", [0, 1], ids=["rank 0 slow", "lane 1 slow"])
def test_over_many_rounds_all_workers_read_one_version_and_little_is_kept(workers, staleness, slow):
    """Lane 1 reads nothing and might run ahead; every tenth round all gather, as they do to grow."""
    lanes, rounds, draw = 2 * workers, 200, random.Random(workers)
    board, kept, ahead = EstimateBoard(GENERATION, workers), [], []

    async def work(rank):
        mine = [lane for lane in range(1, lanes + 1) if lane % workers == rank]
        below = [lane for lane in range(1, max(mine)) if lane not in mine]
        for version in range(1, rounds + 1):
            for _ in range(draw.randrange(30 if rank == slow else 3)):
                await asyncio.sleep(0)
            ahead.append(version - 1 - min(board._completed))
            if version % 10 == 0:
                reply = await board.gather(GENERATION, rank, version, [(rank, version)])
                assert reply.references == [[(r, version)] for r in range(workers)]
            else:
                read = version - staleness
                known = read < 1 or read <= version - version % 10  # the start, or what all have brought together since
                reply = await swap(board, rank, version, mine, [] if known else below, staleness)
                assert reply.references == ({} if known else {lane: [(lane, read)] for lane in below})
            kept.append((len(board._estimates), len(board._shares)))

    async def everybody():
        await asyncio.wait_for(asyncio.gather(*map(work, range(workers))), 60)

    asyncio.run(everybody())
    assert max(estimates for estimates, _ in kept) <= lanes * (2 * staleness + 3)
    assert max(shares for _, shares in kept) <= 1
    assert max(ahead) <= staleness + 1, "none gets further ahead of another"


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_request_for_a_checkpoint_reaches_all_workers_before_its_version(staleness):
    board, heard = EstimateBoard(GENERATION, 3), {}

    async def work(rank, pause):
        for version in range(1, 20):
            for _ in range(pause):
                await asyncio.sleep(0)
            wish = 5 + staleness + 2 if rank == 0 and version >= 5 else 0
            reply = await swap(board, rank, version, [rank], staleness=staleness, checkpoint=wish)
            if reply.checkpoint:
                heard.setdefault(rank, version)

    async def everybody():
        await asyncio.gather(work(0, pause=20), work(1, pause=0), work(2, pause=5))

    asyncio.run(everybody())
    assert heard.keys() == {0, 1, 2}
    assert max(heard.values()) < 5 + staleness + 2


def test_closing_ends_waiting_calls_and_later_ones():
    async def scene():
        board = EstimateBoard(GENERATION, 3)
        waiting = [
            asyncio.create_task(swap(board, 0, 3, [3])),
            asyncio.create_task(swap(board, 1, 1, [1], [2])),
            asyncio.create_task(board.gather(GENERATION, 2, 1, ["share"])),
        ]
        await asyncio.sleep(0.01)
        assert not any(call.done() for call in waiting)
        await board.close()
        assert await asyncio.wait_for(asyncio.gather(*waiting), 1) == [None, None, None]
        assert await swap(board, 0, 4) is None
        assert await board.gather(GENERATION, 0, 5, ["share"]) is None

    asyncio.run(scene())


def test_calls_of_another_generation_are_rejected_and_leave_no_trace():
    async def scene():
        board = EstimateBoard(GENERATION, 1)
        assert await swap(board, 0, 1, [1], checkpoint=9, generation=GENERATION - 1) is None
        assert await board.gather(GENERATION - 1, 0, 1, ["stale"]) is None
        assert await swap(board, 1, 1, [1]) is None, "nor is there a second worker"
        assert not board._estimates and not board._shares
        reply = await swap(board, 0, 1, [1])
        assert (reply.references, reply.checkpoint) == ({}, 0)

    asyncio.run(scene())
