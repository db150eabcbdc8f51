"""The Ray cluster: join a running one or start a local one, and count the worker groups that fit into it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from adapad_ray.distributed.cluster_address import find_cluster
from adapad_ray.distributed.ray_internals import LOCAL_CLUSTER, autoscaling_limit, silence_authentication
from adapad_ray.distributed.ray_start import join_cluster, start_cluster
from adapad_ray.errors import BadRequestError
from adapad_ray.interrupts import interruptible
from adapad_ray.wording import counted


@contextmanager
def connect(
    address: str | None = None, *, num_cpus: int | None = None, object_store_memory: int | None = None
) -> Iterator[None]:
    """Run the block on a Ray cluster: `address`, else `RAY_ADDRESS` (which `ray job submit` sets), else a local one.

    A local cluster listens on 127.0.0.1 only and uses token authentication. A cluster that is joined gets this
    machine's token, if there is one. `RAY_AUTH_MODE` overrides both. Inside the block, SIGTERM ends the program as
    Ctrl-C does. At the end, a cluster that was started here is shut down; one that was joined goes on, and so does a
    connection that existed before.

    Args:
        address: `host:port`, or `auto` for the cluster of this machine.
        num_cpus: CPUs of a local cluster; default: all CPUs of this process.
        object_store_memory: bytes of a local cluster's object store; default: Ray's own.

    Raises:
        BadRequestError: there is no cluster at the address, or a local one does not start.
    """
    if ray.is_initialized():
        yield
        return
    # RAY_AUTH_MODE is not set here, because Ray reads it when it is imported: with the variable set later, ray.init
    # starts a server that demands a token nobody has made. Left unset, Ray makes the token and sets the variable.
    silence_authentication()
    address = find_cluster(address)
    with interruptible():
        try:
            _start(address, num_cpus, object_store_memory)
            yield
        finally:
            ray.shutdown()


def check_cluster() -> None:
    """Check within seconds that `connect` will find its cluster, or can start one.

    Raises:
        BadRequestError: no cluster answers at `RAY_ADDRESS`, or Ray cannot write to a folder that it needs.
    """
    if not ray.is_initialized():
        silence_authentication()
        find_cluster()


def _start(address: str | None, num_cpus: int | None, object_store_memory: int | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address is not None:
        join_cluster(address, quiet)
        return
    start_cluster(
        {
            "address": "local",
            "num_cpus": len(os.sched_getaffinity(0)) if num_cpus is None else num_cpus,
            "object_store_memory": object_store_memory,
            "dashboard_host": "127.0.0.1",
            **LOCAL_CLUSTER,
            **quiet,
        }
    )


def available_groups(workers: int, cpus_per_worker: float, gpus_per_worker: float) -> int:
    """Return how many groups of `workers` workers the whole cluster holds at once, at least one.

    Ray waits forever, without a message, for resources that fit nowhere; this raises instead. A worker must fit on one
    node; a group may span several. For a cluster that grows on demand, its declared maximum counts.

    Raises:
        BadRequestError: an argument is out of range, or not even one group fits.
    """
    if workers < 1 or cpus_per_worker <= 0 or gpus_per_worker < 0:
        raise BadRequestError(
            "a group needs workers >= 1, cpus_per_worker > 0 and gpus_per_worker >= 0, but got "
            f"{workers}, {cpus_per_worker:g} and {gpus_per_worker:g}"
        )
    request = {"CPU": cpus_per_worker, "GPU": gpus_per_worker}
    limit = autoscaling_limit()
    nodes = [limit] if limit else [node["Resources"] for node in ray.nodes() if node["Alive"]]
    groups = sum(_copies(request, node) for node in nodes) // workers
    if groups < 1:
        capacity = "; ".join(
            f"{counted(node.get('CPU', 0), 'CPU')} and {counted(node.get('GPU', 0), 'GPU')}" for node in nodes
        )
        raise BadRequestError(
            f"one group of {counted(workers, 'worker')} with {counted(cpus_per_worker, 'CPU')} and "
            f"{counted(gpus_per_worker, 'GPU')} each does not fit the cluster "
            f"(per node: {capacity}): lower resources.workers, cpus_per_worker or gpus_per_worker"
        )
    return groups


def _copies(request: dict[str, float], capacity: dict[str, float]) -> int:
    # Ray counts resources in units of 1e-4; the epsilon keeps 3 x 0.1 inside 0.3.
    return min(int(capacity.get(name, 0) / amount + 1e-6) for name, amount in request.items() if amount > 0)
