"""Cells on a Ray cluster: worker groups, the queue they take jobs from, and the cluster itself.

A group is a set of workers that compute one job together; a pool is a set of groups that share a queue. The caller
defines jobs, set-up and results, so that this package is independent of sweeps.
"""

from adapad_ray.distributed.capacity import WorkerRequest
from adapad_ray.distributed.cluster import available_groups, check_cluster, connect, visible_gpus
from adapad_ray.distributed.jobs import (
    GroupRetired,
    JobContext,
    JobError,
    JobOutcome,
    JobProgress,
    PoolError,
    PoolEvent,
    SetupContext,
)
from adapad_ray.distributed.ray_internals import dashboard_address
from adapad_ray.distributed.worker_pool import WorkerPool

__all__ = [
    "GroupRetired",
    "JobContext",
    "JobError",
    "JobOutcome",
    "JobProgress",
    "PoolError",
    "PoolEvent",
    "SetupContext",
    "WorkerPool",
    "WorkerRequest",
    "available_groups",
    "check_cluster",
    "connect",
    "dashboard_address",
    "visible_gpus",
]
