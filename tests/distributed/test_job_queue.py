"""The job queue without Ray: the order of jobs, what the driver receives, and what ends an attempt."""

import asyncio
from contextlib import suppress

import pytest

from adapad_ray.distributed import JobError, JobProgress, PoolError
from adapad_ray.distributed.job_queue import JobQueue


class LivingWorker:
    """Stands for the handle of a worker that does not die."""

    class __ray_ready__:
        @staticmethod
        async def remote():
            return None


def run(scene, workers=1, max_attempts=2):
    """Runs `scene(queue)` with one group whose workers have joined and are ready."""

    async def main():
        queue = JobQueue(1, workers, max_attempts, ping_seconds=0.01)
        for rank in range(workers):
            await queue.join(0, "first-life", rank, LivingWorker)
            await queue.ready(0, rank)
        await asyncio.wait_for(scene(queue), 10)
        for task in list(queue._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(main())


async def work(queue, value=None, error=None, lost=False):
    """Takes the next job, starts it and ends it; returns its id and attempt."""
    job = await queue.take(0, "first-life", 0)
    assert await queue.started(0, job.generation)
    await queue.finish(0, job.generation, 0, value, error, lost)
    return job.job_id, job.attempt


def test_jobs_go_out_in_the_order_of_submission():
    async def scene(queue):
        for name in ("a", "b", "c"):
            await queue.submit(name, {})
        assert [await work(queue) for _ in range(3)] == [("a", 1), ("b", 1), ("c", 1)]

    run(scene)


def test_an_outcome_is_sent_again_until_it_is_acknowledged():
    async def scene(queue):
        await queue.submit("a", {})
        await work(queue, value=1)
        first, lost_reply = await queue.poll(0, 1.0)
        assert (first, [outcome.value for outcome in lost_reply]) == (1, [1])
        await queue.submit("b", {})
        await work(queue, value=2)
        second, outcomes = await queue.poll(0, 1.0)
        assert (second, [outcome.value for outcome in outcomes]) == (2, [1, 2])
        assert await queue.poll(second, 0.01) == (2, [])

    run(scene)


def test_of_a_jobs_reports_the_latest_reaches_the_driver_and_those_of_an_ended_attempt_do_not():
    async def scene(queue):
        await queue.submit("a", {})
        job = await queue.take(0, "first-life", 0)
        await queue.started(0, job.generation)
        for step in (1, 2):
            await queue.progress(0, job.generation, {"step": step})
        assert (await queue.poll(0, 1.0))[1] == [JobProgress("a", 0, 1, {"step": 2})]
        await queue.finish(0, job.generation, 0, None, None)
        await queue.progress(0, job.generation, {"step": 3})
        (outcome,) = (await queue.poll(0, 1.0))[1]
        assert outcome.status == "done"
        assert not await queue.started(0, job.generation), "the attempt is over"

    run(scene)


def test_a_job_that_lost_its_board_goes_to_the_front_and_is_lost_after_max_attempts():
    async def scene(queue):
        gone = JobError("AttemptLostError", "the board is gone")
        await queue.submit("a", {})
        await queue.submit("b", {})
        assert await work(queue, error=gone, lost=True) == ("a", 1)
        assert await work(queue, error=gone, lost=True) == ("a", 2)
        assert await work(queue) == ("b", 1)
        a, b = (await queue.poll(0, 1.0))[1]
        assert (a.job_id, a.status, a.attempts, a.error) == ("a", "lost", 2, gone)
        assert (b.job_id, b.status, b.attempts) == ("b", "done", 1)

    run(scene)


def test_an_attempt_that_no_rank_has_started_does_not_count():
    async def scene(queue):
        await queue.submit("a", {})
        taken = await queue.take(0, "first-life", 0)
        queue._release(queue._groups[0])  # as when the worker dies now
        again = await queue.take(0, "first-life", 0)
        assert (taken.attempt, again.attempt) == (1, 1)
        assert again.generation == taken.generation + 1

    run(scene)


def test_stopping_ends_all_jobs_and_lets_the_workers_leave():
    async def scene(queue):
        waiting = asyncio.create_task(queue.submit_and_wait("running", {}))
        await queue.take(0, "first-life", 0)
        queued = asyncio.create_task(queue.submit_and_wait("waiting", {}))
        await asyncio.sleep(0)
        await queue.stop()
        for job in (waiting, queued):
            with pytest.raises(PoolError, match="the pool was closed"):
                await job
        assert await queue.take(0, "first-life", 0) is None
        with pytest.raises(PoolError, match="the pool is closed"):
            await queue.submit("late", {})

    run(scene)


def test_a_failed_set_up_breaks_the_pool_once_its_outcomes_are_delivered():
    async def scene(queue):
        await queue.submit("a", {})
        await work(queue, value=1)
        await queue.set_up_failed(0, 0, JobError("OSError", "no weights here"))
        number, (outcome,) = await queue.poll(0, 1.0)
        assert outcome.value == 1
        with pytest.raises(PoolError, match="set-up of rank 0 of group 0 failed: OSError: no weights here"):
            await queue.poll(number, 1.0)

    run(scene)


def test_a_worker_of_an_earlier_incarnation_gets_no_job():
    async def scene(queue):
        await queue.submit("a", {})
        assert await queue.take(0, "an-earlier-life", 0) is None

    run(scene)
