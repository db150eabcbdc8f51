"""The messages between the driver, the job queue and the workers of a pool."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ray

from adapad_ray.distributed.capacity import WorkerRequest
from adapad_ray.errors import WorkersLostError


class PoolError(WorkersLostError):
    """The pool is broken: no group is left that could be set up, or the queue is gone."""


@dataclass(frozen=True)
class JobError:
    """Why a job failed: an exception's type name, message and traceback text (empty when a worker died)."""

    type: str
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended.

    `done`: `value` is what rank 0 returned. `failed`: any rank raised. `lost`: workers died in each of `attempts`
    attempts.
    """

    job_id: str
    status: Literal["done", "failed", "lost"]
    value: Any
    error: JobError | None
    attempts: int
    group: int
    seconds: float
    """Wall-clock time of the last attempt."""


@dataclass(frozen=True)
class JobProgress:
    """The latest report of a running job. Earlier ones may have been skipped."""

    job_id: str
    group: int
    attempt: int
    data: dict[str, Any]


@dataclass(frozen=True)
class GroupRetired:
    """A group is out of use for as long as the pool lives; the others go on."""

    group: int
    reason: str


@dataclass(frozen=True)
class Company:
    """With which jobs a job can be computed together, under `company` in its payload."""

    key: str
    """The same for all of them."""
    most: int
    """Jobs that a worker computes at one time."""


PoolEvent = JobProgress | JobOutcome | GroupRetired


@dataclass(frozen=True)
class Assignment:
    """One attempt at a job, as a worker receives it."""

    generation: int
    """Number of the attempt among all that the pool has made."""
    job_id: str
    payload: dict[str, Any]
    attempt: int
    board: ray.actor.ActorHandle | None
    """The attempt's estimate board, for a group of several workers."""
    beside: tuple[Assignment, ...] = ()
    """The jobs to compute together with this one."""


@dataclass(frozen=True)
class SetupContext:
    """The argument of a worker's set-up: its position, its resources, and the objects shared by all workers."""

    group: int
    rank: int
    world_size: int
    cpus: float
    gpus: float
    device: str
    """`cpu` or `cuda:0`, as torch spells it."""
    shared: Mapping[str, ray.ObjectRef]


@dataclass(frozen=True)
class JobContext:
    """The execution of a job on one rank. None of it may change the job's result."""

    job_id: str
    attempt: int
    """1 for the first."""
    group: int
    rank: int
    world_size: int
    report: Callable[[dict[str, Any]], None]
    """Sends a small dict to the driver while the job runs. The latest one counts; delivery is not guaranteed."""
    board: ray.actor.ActorHandle | None = None
    """The attempt's estimate board, for a group of several workers."""
    generation: int = 0
    """Number of the attempt among all that the pool has made. Its board accepts calls of this generation only."""


@dataclass(frozen=True)
class WorkerSettings:
    """What all workers of a pool have in common."""

    workers: int
    """Of each group."""
    setup: str
    run: str
    request: WorkerRequest
    shared: dict[str, ray.ObjectRef]
    run_together: str | None = None
    """None: one job at a time."""


@dataclass(frozen=True)
class WorkerConfig:
    """The configuration of a group's workers."""

    queue: ray.actor.ActorHandle
    group: int
    settings: WorkerSettings
    bad_nodes: frozenset[str]
    """Ids of nodes on which the workers are not started."""


def reference(function: Callable[..., Any] | str) -> str:
    """Return `module:function` for a module-level function. Functions are sent to workers by name, never as code.

    Raises:
        ValueError: the name does not resolve to the function (a lambda, a nested function, one of a script).
    """
    name = function if isinstance(function, str) else f"{function.__module__}:{function.__qualname__}"
    module, _, attribute = name.partition(":")
    if module == "__main__" or not attribute.isidentifier():
        raise ValueError(f"{name} cannot be imported by a worker: pass a module-level function of an importable module")
    if not isinstance(function, str) and resolve(name) is not function:
        raise ValueError(f"{name} is not the function that was passed: pass a module-level function under its own name")
    return name


def resolve(name: str) -> Callable[..., Any]:
    """Return the function that `reference` named."""
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function
