"""What passes between the driver, the queue and the workers of a pool."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ray


class PoolError(RuntimeError):
    """The pool itself cannot go on: set-up failed, workers die before their first job, or the queue is gone."""


@dataclass(frozen=True)
class JobError:
    """Why a job failed: an exception's type name, message and traceback text (empty when a worker died)."""

    type: str
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended.

    `done`: `value` is what rank 0 returned. `failed`: the job raised, on any rank. `lost`: workers died under it in
    each of `attempts` attempts.
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
    """The latest thing a running job has said of itself. Older reports of the same job may have been skipped."""

    job_id: str
    group: int
    attempt: int
    data: dict[str, Any]


@dataclass(frozen=True)
class Assignment:
    """One attempt at a job, as a worker receives it. A token is never used twice."""

    token: int
    job_id: str
    payload: dict[str, Any]
    attempt: int
    board: ray.actor.ActorHandle | None
    """The attempt's estimate board, where a group has several workers; the token is its generation."""


@dataclass(frozen=True)
class SetupContext:
    """What a worker knows when it starts: where it stands, what it may use, and the objects shared by all."""

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
    """What a job knows of its execution. Nothing of it may change the job's result."""

    job_id: str
    attempt: int
    """1 for the first."""
    group: int
    rank: int
    world_size: int
    report: Callable[[dict[str, Any]], None]
    """Shows a small dict to the driver while the job runs; the latest wins, and delivery is not guaranteed."""
    board: ray.actor.ActorHandle | None = None
    """The attempt's own estimate board, where the group has several workers."""
    generation: int = 0
    """Number of the attempt among all that the pool has made; its board answers to no other."""


@dataclass(frozen=True)
class WorkerConfig:
    """Everything a worker needs to begin."""

    queue: ray.actor.ActorHandle
    group: int
    workers: int
    setup: str
    run: str
    cpus: float
    gpus: float
    shared: dict[str, ray.ObjectRef]


def reference(function: Callable[..., Any] | str) -> str:
    """`module:function` of a module-level function, which is how functions travel to the workers: by name, as no code.

    Raises:
        ValueError: the name does not lead back to the function (a lambda, a nested function, a script's own).
    """
    name = function if isinstance(function, str) else f"{function.__module__}:{function.__qualname__}"
    module, _, attribute = name.partition(":")
    if module == "__main__" or not attribute.isidentifier():
        raise ValueError(f"{name} cannot be imported by a worker: pass a module-level function of an importable module")
    if not isinstance(function, str) and resolve(name) is not function:
        raise ValueError(f"{name} names another object than the function that was passed")
    return name


def resolve(name: str) -> Callable[..., Any]:
    """The function that `reference` named."""
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function
