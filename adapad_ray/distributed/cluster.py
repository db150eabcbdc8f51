"""The Ray cluster: join the one there is, or start a local one; and how many worker groups it can hold."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from adapad_ray.errors import BadRequestError


@contextmanager
def connect(
    address: str | None = None, *, num_cpus: int | None = None, object_store_memory: int | None = None
) -> Iterator[None]:
    """Run the block on a Ray cluster: `address`, else `RAY_ADDRESS` (which `ray job submit` sets), else a local one.

    A local cluster listens on 127.0.0.1 only and has token authentication on, and one that is joined is spoken to with
    the token if there is one, unless `RAY_AUTH_MODE` says otherwise. SIGTERM ends the program as Ctrl-C does. Only what
    was started here is shut down: a connection that existed before is left alone, and so is a cluster that was joined.

    Args:
        address: `host:port`, or `auto` for the cluster of this machine.
        num_cpus: CPUs of a local cluster; default: all of this process's.
        object_store_memory: bytes of a local cluster's object store; default: Ray's own.
    """
    if ray.is_initialized():
        yield
        return
    # RAY_AUTH_MODE is not set here: Ray reads it when it is imported, and with the variable set later ray.init starts a
    # server that demands a token nobody has made. Unset, it makes the token, sets the variable, and says so at length.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    address = address or os.environ.get("RAY_ADDRESS")
    with sigterm_as_interrupt():
        _start(address, num_cpus, object_store_memory)
        with sigterm_as_interrupt():  # ray.init sets a handler of its own
            try:
                yield
            finally:
                ray.shutdown()


def _start(address: str | None, num_cpus: int | None, object_store_memory: int | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            with _loopback():
                ray.init(
                    address="local",
                    num_cpus=len(os.sched_getaffinity(0)) if num_cpus is None else num_cpus,
                    object_store_memory=object_store_memory,
                    dashboard_host="127.0.0.1",
                    # A pool is mostly processes that wait, more than CPUs, which Ray would remark upon on the console.
                    _system_config={"worker_maximum_startup_concurrency": 8},
                    **quiet,
                )
    except ConnectionError as error:
        raise BadRequestError(f"no Ray cluster answers at {address!r}: {error}") from error


@contextmanager
def _loopback() -> Iterator[None]:
    """What Ray starts while the block runs listens on 127.0.0.1 alone.

    On Linux its services are meant for other nodes too, and bind to every interface, whatever address they are given;
    on macOS and Windows they are not. One switch of Ray's makes the difference, read where it is imported.
    """
    constants = ray._private.ray_constants
    variable, before = constants.ENABLE_RAY_CLUSTERS_ENV_VAR, constants.ENABLE_RAY_CLUSTER
    inherited = os.environ.get(variable)
    constants.ENABLE_RAY_CLUSTER, os.environ[variable] = False, "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        if inherited is None:
            del os.environ[variable]
        else:
            os.environ[variable] = inherited


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """While the block runs, SIGTERM does what Ctrl-C does, so that everything is closed; only in a main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def available_groups(workers: int, cpus_per_worker: float, gpus_per_worker: float) -> int:
    """Number of groups of `workers` workers that the whole cluster holds at once, at least one.

    Ray lets a request that fits nowhere wait for ever without a word; this says so at once. A worker must fit on one
    node, a group may span several. Where the cluster grows on demand, its declared maximum counts instead.

    Raises:
        BadRequestError: not even one group fits.
    """
    if workers < 1 or cpus_per_worker <= 0 or gpus_per_worker < 0:
        raise BadRequestError(
            "a group needs workers >= 1, cpus_per_worker > 0 and gpus_per_worker >= 0, but got "
            f"{workers}, {cpus_per_worker:g} and {gpus_per_worker:g}"
        )
    request = {"CPU": cpus_per_worker, "GPU": gpus_per_worker}
    ceiling = _autoscaling_limit()
    nodes = [ceiling] if ceiling else [node["Resources"] for node in ray.nodes() if node["Alive"]]
    groups = sum(_copies(request, node) for node in nodes) // workers
    if groups < 1:
        there = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise BadRequestError(
            f"one group of {workers} worker{'s' * (workers > 1)} with {cpus_per_worker:g} CPUs and "
            f"{gpus_per_worker:g} GPUs each does not fit the cluster "
            f"(per node: {there}): lower resources.workers, cpus_per_worker or gpus_per_worker"
        )
    return groups


def _copies(request: dict[str, float], capacity: dict[str, float]) -> int:
    # Ray counts resources in units of 1e-4; the epsilon keeps 3 x 0.1 inside 0.3.
    return min(int(capacity.get(name, 0) / amount + 1e-6) for name, amount in request.items() if amount > 0)


def _autoscaling_limit() -> dict[str, float] | None:
    """What the cluster may grow to, where Ray's autoscaler has told it; None for a cluster of fixed size."""
    limit: dict[str, float] | None = ray._private.state.state.get_max_resources_from_cluster_config()
    return limit
