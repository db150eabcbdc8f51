"""One attempt at a job: what each rank of the group answered, and the outcome that follows from it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import ray

from adapad_ray.distributed.jobs import Assignment, Company, JobError, JobOutcome


@dataclass
class Job:
    """A job in the queue or running."""

    job_id: str
    payload: dict[str, Any]
    outcome: asyncio.Future[JobOutcome]
    background: bool = False
    """Whether the job waits until no other does."""
    attempts: int = 0
    """Attempts that a rank has started."""
    fruitless: int = 0
    """Attempts since the job's checkpoint advanced last."""
    resumed: int = 0
    """Largest step at which an attempt has resumed the checkpoint of an earlier one."""
    broke: set[int] = field(default_factory=set)
    """Groups that have lost an accelerator with this job."""

    @property
    def company(self) -> Company | None:
        """With which jobs it can be computed together; None: with none."""
        company = self.payload.get("company")
        return None if company is None else Company(**company)


@dataclass
class Attempt:
    """A job handed to one incarnation of a group. It lasts until every rank has answered or died."""

    generation: int
    """Number of the attempt among all that the queue has made."""
    job: Job
    group: int
    began: float = field(default_factory=time.monotonic)
    """Seconds of the monotonic clock; of the start, once a rank has started."""
    started: bool = False
    taken: set[int] = field(default_factory=set)
    """Ranks that have received the job."""
    values: dict[int, Any] = field(default_factory=dict)
    errors: dict[int, JobError] = field(default_factory=dict)
    lost: dict[int, JobError] = field(default_factory=dict)
    """Errors of ranks that could not go on without another worker or the board. The job is not at fault."""
    board: ray.actor.ActorHandle | None = None

    def assignment(self) -> Assignment:
        """What its worker receives."""
        job, number = self.job, self.job.attempts + (not self.started)
        return Assignment(self.generation, job.job_id, job.payload, number, self.board)

    @property
    def answered(self) -> int:
        """Number of ranks that have answered."""
        return len(self.values) + len(self.errors) + len(self.lost)

    @property
    def failed(self) -> bool:
        """Whether a rank has reported an error, its own or a lost connection."""
        return bool(self.errors or self.lost)

    def start(self) -> None:
        """Count the attempt when its first rank starts."""
        if not self.started:
            self.started = True
            self.job.attempts += 1
            self.job.fruitless += 1
            self.began = time.monotonic()

    def resume(self, step: int) -> None:
        """Record the step at which the attempt has resumed. If an earlier attempt got that far, none was fruitless:
        only this one counts from now on."""
        if step > self.job.resumed:
            self.job.resumed, self.job.fruitless = step, 1

    def answer(self, rank: int, value: Any, error: JobError | None, lost: bool) -> None:
        """Record what a rank returned or raised."""
        if error is None:
            self.values[rank] = value
        elif lost:
            self.lost[rank] = error
        else:
            self.errors[rank] = error

    def outcome(self, max_attempts: int) -> JobOutcome | None:
        """Return the job's outcome, or None if the job is to be attempted again.

        An error of any rank fails the job. Else the value of rank 0 stands, because the other ranks may have waited for
        rank 0 in vain. Without either, the job is repeated until `max_attempts` attempts in a row have died and its
        checkpoint has not advanced meanwhile: a cell on nodes that are taken away again and again still ends.
        """
        if self.errors:
            return self._outcome("failed", None, self.errors[min(self.errors)])
        if 0 in self.values:
            return self._outcome("done", self.values[0], None)
        if self.job.fruitless < max_attempts:
            return None
        if self.lost:
            return self._outcome("lost", None, self.lost[min(self.lost)])
        message = f"the worker process died in each of {self.job.fruitless} attempts"
        return self._outcome("lost", None, JobError("WorkerDied", message))

    def _outcome(self, status: Literal["done", "failed", "lost"], value: Any, error: JobError | None) -> JobOutcome:
        seconds = time.monotonic() - self.began
        return JobOutcome(self.job.job_id, status, value, error, self.job.attempts, self.group, seconds)
