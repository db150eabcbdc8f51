"""Cells on a Ray cluster: worker groups, the queue they take jobs from, and the cluster itself.

Jobs, set-up and results are the caller's: nothing here knows what a sweep is.
"""

from adapad_ray.distributed.cluster import available_groups, connect, sigterm_as_interrupt
from adapad_ray.distributed.jobs import JobContext, JobError, JobOutcome, JobProgress, PoolError, SetupContext
from adapad_ray.distributed.worker_pool import WorkerPool

__all__ = [
    "JobContext",
    "JobError",
    "JobOutcome",
    "JobProgress",
    "PoolError",
    "SetupContext",
    "WorkerPool",
    "available_groups",
    "connect",
    "sigterm_as_interrupt",
]
