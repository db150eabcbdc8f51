"""The job queue without Ray: the order of jobs, what the driver receives, and what ends an attempt."""

import asyncio

import pytest
from crew import run_queue

from adapad_ray.distributed import JobError, JobProgress, PoolError


def run(scene, groups=1):
    """Runs `scene(queue, *crews)` with groups whose workers have joined and are ready."""

    async def with_workers(queue, *crews):
        for crew in crews:
            await crew.up(queue)
        await scene(queue, *crews)

    run_queue(with_workers, groups, idle_seconds=40.0, seconds=10.0)


def test_jobs_go_out_in_the_order_of_submission():
    async def scene(queue, crew):
        for name in ("a", "b", "c"):
            await queue.submit(name, {})
        assert [await crew.work(queue) for _ in range(3)] == [("a", 1), ("b", 1), ("c", 1)]

    run(scene)


def test_jobs_in_the_background_wait_for_later_ones():
    async def scene(queue, crew):
        for name, background in (("c", True), ("a", False), ("d", True), ("b", False)):
            await queue.submit(name, {}, background)
        assert await crew.work(queue) == ("a", 1)
        assert await crew.work(queue, lost=True, error=JobError("WorkersLost", "")) == ("b", 1)
        assert [await crew.work(queue) for _ in range(3)] == [("b", 2), ("c", 1), ("d", 1)]

    run(scene)


def test_an_outcome_is_sent_again_until_it_is_acknowledged():
    async def scene(queue, crew):
        await queue.submit("a", {})
        await crew.work(queue, value=1)
        first, lost_reply = await queue.poll(0, 1.0)
        assert (first, [outcome.value for outcome in lost_reply]) == (1, [1])
        await queue.submit("b", {})
        await crew.work(queue, value=2)
        second, outcomes = await queue.poll(0, 1.0)
        assert (second, [outcome.value for outcome in outcomes]) == (2, [1, 2])
        assert await queue.poll(second, 0.01) == (2, [])

    run(scene)


def test_of_a_jobs_reports_the_latest_reaches_the_driver_and_those_of_an_ended_attempt_do_not():
    async def scene(queue, crew):
        await queue.submit("a", {})
        job = await crew.take(queue)
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
    async def scene(queue, crew):
        gone = JobError("AttemptLostError", "the board is gone")
        await queue.submit("a", {})
        await queue.submit("b", {})
        assert await crew.work(queue, error=gone, lost=True) == ("a", 1)
        assert await crew.work(queue, error=gone, lost=True) == ("a", 2)
        assert await crew.work(queue) == ("b", 1)
        a, b = (await queue.poll(0, 1.0))[1]
        assert (a.job_id, a.status, a.attempts, a.error) == ("a", "lost", 2, gone)
        assert (b.job_id, b.status, b.attempts) == ("b", "done", 1)

    run(scene)


def test_attempts_before_a_newer_checkpoint_do_not_count():
    async def scene(queue, crew):
        gone = JobError("AttemptLostError", "the node is gone")
        await queue.submit("a", {})

        async def attempt(resumed):
            job = await crew.take(queue)
            await queue.started(0, job.generation)
            await queue.progress(0, job.generation, {"resumed": resumed})
            await queue.finish(0, job.generation, 0, None, gone, lost=True)

        for resumed in (0, 10, 20, 30):
            await attempt(resumed)
            assert not any(hasattr(event, "status") for event in (await queue.poll(0, 0.01))[1])
        await attempt(30)
        (outcome,) = (event for event in (await queue.poll(0, 1.0))[1] if hasattr(event, "status"))
        assert (outcome.status, outcome.attempts) == ("lost", 5)

    run(scene)


def test_the_job_of_a_dead_worker_goes_to_the_next_life_of_its_group():
    async def scene(queue, crew):
        await queue.submit("a", {})
        job = await crew.take(queue)
        assert await queue.started(0, job.generation)
        crew.die()
        await crew.up(queue)
        assert await crew.work(queue, value=1) == ("a", 2)
        (outcome,) = (await queue.poll(0, 1.0))[1]
        assert (outcome.status, outcome.attempts) == ("done", 2)

    run(scene)


def test_an_attempt_that_no_rank_has_started_does_not_count():
    async def scene(queue, crew):
        await queue.submit("a", {})
        taken = await crew.take(queue)
        crew.die()
        await crew.up(queue)
        again = await crew.take(queue)
        assert (taken.attempt, again.attempt) == (1, 1)
        assert again.generation == taken.generation + 1

    run(scene)


def test_stopping_ends_all_jobs_and_groups():
    async def scene(queue, crew):
        waiting = asyncio.create_task(queue.submit_and_wait("running", {}))
        await crew.take(queue)
        queued = asyncio.create_task(queue.submit_and_wait("waiting", {}))
        await asyncio.sleep(0)
        assert await queue.stop(1.0)
        for job in (waiting, queued):
            with pytest.raises(PoolError, match="the pool was closed"):
                await job
        assert await crew.take(queue) is None
        assert not crew.runs
        with pytest.raises(PoolError, match="the pool is closed"):
            await queue.submit("late", {})

    run(scene)


def test_a_worker_of_an_earlier_incarnation_gets_no_job():
    async def scene(queue, crew):
        await queue.submit("a", {})
        assert await queue.take(0, "an-earlier-life", 0) is None

    run(scene)


def test_a_job_that_cost_a_group_its_accelerator_goes_to_another_group_which_may_be_busy():
    async def scene(queue, first, second):
        for name in ("a", "b", "c"):
            await queue.submit(name, {})
        busy = await second.take(queue)
        assert busy.job_id == "a" and await queue.started(1, busy.generation)
        await first.lose_accelerator(queue)
        await first.up(queue)
        assert await first.work(queue) == ("c", 1), "not b, which it had"
        await queue.finish(1, busy.generation, 0, None, None)
        assert await second.work(queue) == ("b", 2)

    run(scene, groups=2)


def test_a_group_that_loses_its_accelerator_in_two_jobs_in_a_row_is_retired_and_the_jobs_are_not_lost():
    async def scene(queue, broken, good):
        for name in ("a", "b"):
            await queue.submit(name, {})
        await broken.lose_accelerator(queue)
        await broken.up(queue)
        await broken.lose_accelerator(queue)
        assert not broken.runs
        assert {await good.work(queue) for _ in range(2)} == {("a", 2), ("b", 2)}
        retired = (await queue.poll(0, 1.0))[1][0]
        assert retired.reason == "it lost its accelerator in two jobs in a row: AcceleratorError: CUDA error: unknown"

    run(scene, groups=2)


def test_a_job_that_breaks_every_accelerator_is_lost_and_retires_no_group():
    async def scene(queue, crew):
        await queue.submit("bad", {})
        await queue.submit("good", {})
        for _ in range(2):
            assert (await crew.lose_accelerator(queue)).job_id == "bad"
            await crew.up(queue)
        assert await crew.work(queue) == ("good", 1)
        assert [outcome.status for outcome in (await queue.poll(0, 1.0))[1]] == ["lost", "done"]

    run(scene)


def company(most=3, key="k"):
    return {"company": {"key": key, "most": most}}


def taken(job):
    return [job.job_id, *(other.job_id for other in job.beside)]


async def end(queue, crew, job, **options):
    assert await queue.started(crew.config.group, job.generation)
    await queue.finish(crew.config.group, job.generation, 0, options.get("value"), options.get("error"), False)


def test_jobs_that_can_be_computed_together_go_out_together_up_to_their_limit():
    async def scene(queue, crew):
        for name, payload in (
            ("a", company()),
            ("alone", {}),
            ("b", company()),
            ("other", company(key="l")),
            ("c", company()),
            ("d", company()),
        ):
            await queue.submit(name, payload)
        first = await crew.take(queue)
        assert taken(first) == ["a", "b", "c"]
        for job in (first.beside[0], first, first.beside[1]):
            await end(queue, crew, job, value=job.job_id)
        outcomes = (await queue.poll(0, 1.0))[1]
        assert [(outcome.job_id, outcome.value) for outcome in outcomes] == [("b", "b"), ("a", "a"), ("c", "c")]
        assert taken(await crew.take(queue)) == ["alone"]

    run(scene)


def test_groups_share_jobs_that_can_be_computed_together():
    async def scene(queue, first, second):
        for name in "abcde":
            await queue.submit(name, company(most=9))
        assert [taken(await crew.take(queue)) for crew in (first, second)] == [["a", "b", "c"], ["d"]]

    run(scene, groups=2)


def test_jobs_without_an_answer_go_back_to_the_front_together_and_then_alone():
    """One of them may be what kills its worker."""

    async def scene(queue, crew):
        for name in "abcd":
            await queue.submit(name, company(most=3))
        first = await crew.take(queue)
        assert taken(first) == ["a", "b", "c"]
        await end(queue, crew, first)
        for job in first.beside:
            assert await queue.started(crew.config.group, job.generation)
        crew.die()
        await crew.up(queue)
        again = await crew.take(queue)
        assert taken(again) == ["b"] and again.attempt == 2

    run(scene)


def test_an_error_ends_its_job_alone():
    async def scene(queue, crew):
        for name in "ab":
            await queue.submit(name, company())
        first = await crew.take(queue)
        await end(queue, crew, first, error=JobError("DivergedError", "nan"))
        await end(queue, crew, first.beside[0], value=1)
        assert [outcome.status for outcome in (await queue.poll(0, 1.0))[1]] == ["failed", "done"]

    run(scene)
