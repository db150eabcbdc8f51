"""Which groups run, without Ray: as many as there are jobs, and none that cannot work."""

import asyncio

import pytest
from crew import Crew
from crew import run_queue as run

from adapad_ray.distributed import GroupRetired, JobOutcome, PoolError
from adapad_ray.distributed.groups import keeper


@pytest.fixture(autouse=True)
def quick_restarts(monkeypatch):
    monkeypatch.setattr(keeper, "RESTART_SECONDS", 0.0)


async def until(condition):
    while not condition():
        await asyncio.sleep(0.01)


def test_a_group_whose_set_up_fails_is_retired_alone():
    async def scene(queue, bad, good):
        await queue.submit("a", {})
        await bad.fail_set_up(queue)
        await good.up(queue)
        assert await good.work(queue) == ("a", 1)
        retired, outcome = (await queue.poll(0, 1.0))[1]
        assert retired == GroupRetired(0, "set-up failed: OSError: no weights here")
        assert isinstance(outcome, JobOutcome)
        assert (bad.runs, bad.starts) == (False, 1)
        good.die()
        await good.up(queue)
        assert good.config.bad_nodes == {bad.node}, "no group is started there again"

    run(scene, groups=2)


def test_the_pool_breaks_with_each_reason_once_when_no_group_is_left():
    async def scene(queue, *crews):
        await queue.submit("a", {})
        for crew, reason in zip(crews, ("no weights", "no weights", "no disk"), strict=True):
            await crew.fail_set_up(queue, reason)
        number, events = await queue.poll(0, 1.0)
        assert len(events) == 3
        with pytest.raises(PoolError) as error:
            await queue.poll(number, 1.0)
        assert str(error.value) == (
            "no worker group is left: set-up failed: OSError: no weights; set-up failed: OSError: no disk"
        )

    run(scene, groups=3)


@pytest.mark.parametrize("joins", [False, True])
def test_a_group_that_keeps_dying_before_it_is_ready_is_retired(joins):
    async def scene(queue, dying, living):
        for _ in range(2):
            await dying._started.wait()
            if joins:
                await dying.join(queue)
            dying.die()
        (retired,) = (await queue.poll(0, 5.0))[1]
        assert retired.group == 0 and "its start failed 2 times in a row" in retired.reason
        assert dying.starts == 2 and living.runs

    run(scene, groups=2)


def test_a_group_that_no_node_can_hold_any_more_is_retired(monkeypatch):
    monkeypatch.setattr(keeper, "PLACE_SECONDS", 0.01)

    async def scene(queue, homeless, placed):
        await placed.up(queue)
        homeless.fits = placed.fits = False
        assert (await queue.poll(0, 5.0))[1] == [GroupRetired(0, "no node holds it")]
        assert placed.runs, "it has its place"

    run(scene, groups=2)


def test_a_group_without_work_is_ended_and_a_later_job_starts_it_again():
    async def scene(queue, first, second):
        for crew in (first, second):
            await crew.up(queue)
        await queue.submit("long", {})
        assert (await first.take(queue)).job_id == "long"
        await until(lambda: not second.runs)
        assert first.runs, "it has work"
        await queue.submit("late", {})
        await second.up(queue)
        assert (await second.take(queue)).job_id == "late"
        assert second.starts == 2

    run(scene, groups=2, idle_seconds=0.1)


def test_with_fewer_jobs_than_groups_those_that_wait_for_resources_are_given_up_first():
    async def scene(queue, waiting, ready):
        await ready.up(queue)
        await queue.submit("a", {})
        await until(lambda: not waiting.runs)
        assert ready.runs and await ready.work(queue) == ("a", 1)

    run(scene, groups=2, idle_seconds=0.1)


def test_a_worker_that_comes_up_after_its_group_was_dismissed_gets_no_job():
    async def scene(queue, late, other):
        await queue.submit("first", {})
        await other.up(queue)
        assert (await other.take(queue)).job_id == "first"
        await until(lambda: not late.runs)
        await queue.join(0, late.life, 0, late)
        await queue.ready(0, late.life, 0)
        assert await late.take(queue) is None

    run(scene, groups=2, idle_seconds=0.1)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("no such label"), "no worker group is left: Ray rejects its request: no such label"),
        (TypeError("not a mistake of the user"), "the queue failed: TypeError: not a mistake of the user"),
    ],
    ids=["rejected", "unexpected"],
)
def test_a_group_that_cannot_be_started_breaks_the_pool_with_the_reason(error, sentence, monkeypatch):
    def start(self, config, name):
        raise error

    monkeypatch.setattr(Crew, "start", start)

    async def scene(queue, crew):
        number = 0
        with pytest.raises(PoolError, match=sentence):
            for _ in range(3):
                number, _ = await queue.poll(number, 1.0)

    run(scene, groups=1)
