"""Cells on a Ray cluster: worker groups, the queue they take jobs from, and the cluster itself.

Jobs, set-up and results are the caller's: nothing here knows what a sweep is.
"""

from adapad_ray.distributed.cluster import available_groups, connect, sigterm_as_interrupt
from adapad_ray.distributed.jobs import JobContext, JobError, Outcome, PoolError, Progress, SetupContext
from adapad_ray.distributed.worker_groups import GroupPool

__all__ = [
    "GroupPool",
    "JobContext",
    "JobError",
    "Outcome",
    "PoolError",
    "Progress",
    "SetupContext",
    "available_groups",
    "connect",
    "sigterm_as_interrupt",
]
