"""The outcome of one attempt at a job follows from what its ranks have answered."""

import asyncio

import pytest

from adapad_ray.distributed import JobError
from adapad_ray.distributed.attempts import Attempt, Job

BROKEN = JobError("ArithmeticError", "the loss is not finite")
ALONE = JobError("AttemptLostError", "the board is gone")


@pytest.fixture
def attempt():
    loop = asyncio.new_event_loop()
    job = Job("cell", {}, loop.create_future(), attempts=1, fruitless=1)
    yield Attempt(generation=5, job=job, group=1)
    loop.close()


def test_a_start_counts_once_however_many_ranks_start(attempt):
    attempt.start()
    attempt.start()
    assert attempt.job.attempts == 2


def test_the_value_of_rank_0_stands_even_if_the_others_lost_it(attempt):
    attempt.start()
    attempt.answer(1, None, ALONE, lost=True)
    attempt.answer(0, {"score": 0.5}, None, lost=False)
    outcome = attempt.outcome(max_attempts=2)
    assert (outcome.job_id, outcome.status, outcome.value, outcome.error) == ("cell", "done", {"score": 0.5}, None)
    assert (outcome.attempts, outcome.group) == (2, 1)
    assert 0 <= outcome.seconds < 1


def test_an_error_of_any_rank_fails_the_job_and_the_lowest_rank_tells_why(attempt):
    attempt.answer(0, {}, None, lost=False)
    attempt.answer(3, None, JobError("OSError", "disk"), lost=False)
    attempt.answer(2, None, BROKEN, lost=False)
    attempt.answer(1, None, ALONE, lost=True)
    assert attempt.answered == 4 and attempt.failed
    outcome = attempt.outcome(max_attempts=9)
    assert (outcome.status, outcome.value, outcome.error) == ("failed", None, BROKEN)


def test_a_job_that_lost_its_workers_is_repeated_until_its_attempts_are_used_up(attempt):
    attempt.answer(1, None, ALONE, lost=True)
    assert attempt.outcome(max_attempts=2) is None
    outcome = attempt.outcome(max_attempts=1)
    assert (outcome.status, outcome.error) == ("lost", ALONE)


def test_a_job_whose_workers_all_died_names_the_number_of_attempts(attempt):
    outcome = attempt.outcome(max_attempts=1)
    assert (outcome.status, outcome.error.type) == ("lost", "WorkerDied")
    assert outcome.error.message == "the worker process died in each of 1 attempts"
