"""The Ray cluster: join a running one or start a local one, and count the worker groups that fit into it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.placement_group import NODE_ID_LABEL_KEY

from adapad_ray.distributed.autoscaler import declared_nodes, has_autoscaler_of_kubernetes
from adapad_ray.distributed.capacity import Capacity, NodeType, WorkerRequest
from adapad_ray.distributed.cluster_address import find_cluster, gpus_at
from adapad_ray.distributed.ray_internals import local_cluster_options, silence_authentication
from adapad_ray.distributed.ray_start import join_cluster, start_cluster
from adapad_ray.errors import BadRequestError
from adapad_ray.interrupts import interruptible
from adapad_ray.training.cpus import usable_cpus


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


def visible_gpus() -> float:
    """Return how many GPUs are on the nodes of the cluster that `connect` will use; of one to be started, those here.

    Raises:
        BadRequestError: no cluster answers at `RAY_ADDRESS`.
    """
    if ray.is_initialized():
        return float(ray.cluster_resources().get("GPU", 0.0))
    silence_authentication()
    address = find_cluster()
    if address is not None:
        return gpus_at(address)
    import torch

    return float(torch.cuda.device_count())


def _start(address: str | None, num_cpus: int | None, object_store_memory: int | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if address is not None:
        join_cluster(address, quiet)
        return
    num_cpus = usable_cpus() if num_cpus is None else num_cpus
    start_cluster(
        {
            "address": "local",
            "num_cpus": num_cpus,
            "object_store_memory": object_store_memory,
            "dashboard_host": "127.0.0.1",
            **local_cluster_options(num_cpus),
            **quiet,
        }
    )


def available_groups(workers: int, request: WorkerRequest, most: int | None = None) -> int:
    """Return how many groups of `workers` workers the cluster holds at once, at least one.

    For a cluster that grows on demand, the nodes count that its autoscaler may start. That of Kubernetes does not tell
    which; there `most` is the number of groups that fit on the nodes to come.

    Args:
        most: the largest number to return.

    Raises:
        BadRequestError: not even one group fits.
    """
    return _groups(cluster_capacity(), workers, request, most)


def _groups(capacity: Capacity, workers: int, request: WorkerRequest, most: int | None) -> int:
    if not capacity.declared and has_autoscaler_of_kubernetes():
        if most is not None:
            return most
        try:
            return capacity.groups(workers, request)
        except BadRequestError as error:
            raise BadRequestError(
                f"{error}; if the autoscaler adds nodes that do, set resources.max_groups to the groups that they hold"
            ) from error
    groups = capacity.groups(workers, request)
    return groups if most is None else min(groups, most)


def has_other_nodes() -> bool:
    """Whether workers may run on other nodes than this one: the cluster has some, or an autoscaler may add them."""
    capacity = cluster_capacity()
    return sum(node.count for node in capacity.alive) > 1 or bool(capacity.declared) or has_autoscaler_of_kubernetes()


def misfit(workers: int, request: WorkerRequest, bad_nodes: Collection[str] = ()) -> str | None:
    """Return why the cluster as it is now will never hold a group; None if it can.

    Args:
        bad_nodes: ids of nodes that do not count.
    """
    try:
        _groups(cluster_capacity(bad_nodes), workers, request, 1)
    except BadRequestError as error:
        return str(error)
    return None


def cluster_capacity(bad_nodes: Collection[str] = ()) -> Capacity:
    """Return the nodes of the cluster that this process is connected to, without those of these ids."""
    kinds: Counter[tuple[Any, ...]] = Counter()
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] not in bad_nodes:
            resources = {name: amount for name, amount in node["Resources"].items() if not name.startswith("node:")}
            labels = {key: value for key, value in node["Labels"].items() if key != NODE_ID_LABEL_KEY}
            kinds[tuple(sorted(resources.items())), tuple(sorted(labels.items()))] += 1
    alive = [NodeType(dict(resources), count, dict(labels)) for (resources, labels), count in kinds.items()]
    return Capacity(alive, *declared_nodes())
