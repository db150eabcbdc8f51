"""Worker groups on a cluster of three node types with fictitious GPUs, all on this machine.

    RAY_AUTH_MODE=disabled PYTHONPATH=. python -m benchmarks.groups --groups 64 --jobs 30

Prints the memory (PSS: shared pages count once) of the driver's node, which holds no worker, and of a worker, with so
many groups at work. Then nodes are killed at random and replaced while jobs run; each job must end exactly once.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from adapad_ray.distributed import (
    JobContext,
    JobOutcome,
    SetupContext,
    WorkerPool,
    WorkerRequest,
    available_groups,
    connect,
)

STORE = {"object_store_memory": 80_000_000}
LARGE, SMALL = (4, 8, 16), (1, 2, 3)
"""GPUs of three node types; each GPU comes with a fictitious CPU."""
SPARE_BYTES = 2e9
"""Memory that stays free on this machine, or the benchmark ends."""
REQUEST = WorkerRequest(cpus=1, gpus=1)


def set_up(context: SetupContext) -> int:
    """Keeps nothing."""
    return context.group


def run(group: int, payload: dict[str, Any], context: JobContext) -> int:
    """Sleeps."""
    time.sleep(payload["seconds"])
    return group


@contextmanager
def cluster_of(gpus: int, types: Sequence[int]) -> Iterator[Cluster]:
    """A cluster of so many GPUs, whose nodes count as dead two seconds after they are."""
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": quick, **STORE})
    try:
        draw = random.Random(0)
        while gpus > 0:
            size = min(draw.choice(types), gpus)
            add_node(cluster, size)
            gpus -= size
        with connect(cluster.address):
            yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Cluster, gpus: int) -> Any:
    """Adds a node of a type."""
    return cluster.add_node(num_cpus=gpus, num_gpus=gpus, **STORE)


def pss(processes: list[psutil.Process]) -> float:
    """Memory in MB."""
    total = 0.0
    for process in processes:
        with suppress(psutil.Error):
            total += process.memory_full_info().pss / 1e6
    return total


def processes_of(node: Any) -> list[psutil.Process]:
    """Ray's services on a node, and the workers that they have started."""
    services = [psutil.Process(info.process.pid) for infos in node.all_processes.values() for info in infos]
    return list({p for service in services for p in (service, *service.children(recursive=True))})


def memory_at_work(groups: int) -> None:
    """Prints the memory with a job running in each group."""
    with cluster_of(groups, LARGE) as cluster:
        assert available_groups(1, REQUEST) == groups
        head = [psutil.Process(), *processes_of(cluster.head_node)]
        print(f"driver's node before the pool: {pss(head):,.0f} MB")
        began = time.monotonic()
        with WorkerPool(f"{__name__}:set_up", f"{__name__}:run", groups=groups, request=REQUEST, name="many") as pool:
            for number in range(groups):
                pool.submit(f"job-{number}", {"seconds": 3600})
            nodes = list(cluster.worker_nodes)
            while (at_work := running(nodes)) < groups:
                print(f"  {at_work} of {groups} groups after {time.monotonic() - began:.0f} s", flush=True)
                if psutil.virtual_memory().available < SPARE_BYTES:
                    raise SystemExit("this machine has too little memory for so many groups")
                time.sleep(5)
            head = [psutil.Process(), *processes_of(cluster.head_node)]
            workers = [p for node in nodes for p in processes_of(node) if is_worker(p)]
            print(f"{groups} groups at work after {time.monotonic() - began:.0f} s")
            print(f"driver's node: {pss(head):,.0f} MB; a worker: {pss(workers) / len(workers):,.0f} MB")


def is_worker(process: psutil.Process) -> bool:
    """Whether it is the worker of a group."""
    with suppress(psutil.Error):
        return process.cmdline()[0].startswith("ray::Worker")
    return False


def running(nodes: list[Any]) -> int:
    """Number of groups whose worker runs."""
    return sum(is_worker(process) for node in nodes for process in processes_of(node))


def kill_nodes(groups: int, jobs: int) -> None:
    """Kills a random node every six seconds, and adds another of its type, while jobs run; counts their outcomes."""
    draw, ended, kills = random.Random(1), Counter[str](), 0
    with cluster_of(groups, SMALL) as cluster:
        functions = f"{__name__}:set_up", f"{__name__}:run"
        with WorkerPool(*functions, groups=groups, request=REQUEST, max_attempts=50, name="killed") as pool:
            for number in range(jobs):
                pool.submit(f"job-{number}", {"seconds": 8})
            next_kill = float("inf")
            while ended.total() < jobs:
                for event in pool.poll():
                    if isinstance(event, JobOutcome):
                        assert event.status == "done", event
                        ended[event.job_id] += 1
                        next_kill = min(next_kill, time.monotonic())
                        print(f"  {event.job_id} after {event.attempts} attempts", flush=True)
                if time.monotonic() > next_kill and kills < jobs // 3:
                    node = draw.choice(sorted(cluster.worker_nodes, key=lambda node: node.node_id))
                    gpus = int(node.get_resource_and_label_spec().num_gpus)
                    cluster.remove_node(node, allow_graceful=False)
                    add_node(cluster, gpus)
                    kills += 1
                    next_kill = time.monotonic() + 6
    assert ended == Counter({f"job-{number}": 1 for number in range(jobs)})
    print(f"{jobs} jobs ended once each; {kills} nodes were killed")


def main() -> None:
    """Runs both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=64)
    parser.add_argument("--jobs", type=int, default=30)
    arguments = parser.parse_args()
    if arguments.groups:
        memory_at_work(arguments.groups)
    if arguments.jobs:
        kill_nodes(6, arguments.jobs)


if __name__ == "__main__":
    from benchmarks import groups  # workers import the functions by this name

    groups.main()
