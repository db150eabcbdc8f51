"""Pools on a cluster of several nodes of one machine. `test_several_nodes.py` runs this as a process.

A cell is computed twice: alone in this process, and by four workers on two nodes. Then two nodes with fictitious GPUs
join, one of them broken.
"""

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import ray
import torch
from pool_helpers import finish
from ray.cluster_utils import Cluster

from adapad_ray.distributed import (
    GroupRetired,
    JobContext,
    JobOutcome,
    SetupContext,
    WorkerPool,
    WorkerRequest,
    available_groups,
    connect,
    visible_gpus,
)
from adapad_ray.distributed.cell_jobs import compute, open_workspace
from adapad_ray.distributed.cluster_address import gpus_at
from adapad_ray.distributed.shared_backbone import offered_backbone
from adapad_ray.errors import BadRequestError
from adapad_ray.models import Backbone, BackboneRecipe
from adapad_ray.models.loading.checkpoint import AbsentCheckpointError
from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_backbone, tiny_task
from adapad_ray.training.cell import Workspace

CASE = MethodCase("adapad", 3 * COST_PER_RANK, {"initial_rank": 0, "local_steps": 2, "growth_interval": 4})
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


class OnOneNode(BackboneRecipe):
    """The tiny backbone, whose files are on one node alone."""

    frame = tiny_backbone()

    def __init__(self, node: str) -> None:
        self.node = node

    def private_bytes(self) -> int:
        """None."""
        return 0

    def load(self, device: str = "cpu") -> Backbone:
        """Writes nothing and reads nothing."""
        if ray.get_runtime_context().get_node_id() != self.node:
            raise AbsentCheckpointError("the files of model 'tiny' are not on this node")
        return tiny_backbone()


def compute_and_tell(workspace: Workspace, payload: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Computes the cell, and writes the id of this worker's node."""
    value = compute(workspace, payload, context)
    Path(f"{payload['folder']}.node-{context.rank}").write_text(ray.get_runtime_context().get_node_id())
    return value


def actors_left(seconds: float = 30.0) -> list[str]:
    """Classes of the actors that are alive when no more of them end, or after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        table = ray._private.state.state.actor_table(None, actor_state_name="ALIVE").values()
        left = [actor["ActorClassName"] for actor in table]
        # Ray Train makes it for the cluster, which it is to serve as long as there is one.
        left = [name for name in left if name != "_AutoscalingCoordinatorActor"]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.5)


def wait_for_free(name: str, amount: float, seconds: float = 30.0) -> float:
    """Seconds until so much of a resource is free."""
    began = time.monotonic()
    while ray.available_resources().get(name, 0) < amount:
        assert time.monotonic() - began < seconds, f"{name} is still reserved"
        time.sleep(0.1)
    return time.monotonic() - began


def set_up_with_a_gpu(context: SetupContext) -> str:
    """Returns the id of the node; fails on the broken one."""
    node = ray.get_runtime_context().get_node_id()
    if node == ray.get(context.shared["broken"]):
        raise OSError("the driver of this GPU is too old")
    return node


def where(node: str, payload: dict[str, Any], context: JobContext) -> dict[str, Any]:
    """Waits until a file is there, and half a second more."""
    while not Path(payload["gate"]).exists():
        time.sleep(0.05)
    time.sleep(0.5)
    return {"node": node, "gpus": ray.get_gpu_ids()}


def one_cell_on_two_nodes(folder: Path) -> dict[str, Any]:
    # Named, because this file is a script here and a module to workers.
    recipe = importlib.import_module("several_nodes").OnOneNode(ray.get_runtime_context().get_node_id())
    functions, shape = (open_workspace, "several_nodes:compute_and_tell"), {"workers": 4, "request": WorkerRequest(0.5)}
    with offered_backbone(recipe, processes=4, on_gpus=False) as offered:
        shared = {"backbone": ray.put(offered), "data": ray.put(tiny_task())}
        with WorkerPool(*functions, **shape, shared=shared, name="nodes") as pool:
            content = {"identity": CASE.identity().model_dump(mode="json"), "folder": str(folder / "nodes")}
            content |= {"base_model": "tiny", "checkpoint_seconds": 60.0, "checkpoint_rounds": 3}
            pool.submit("cell", content)
            status = finish(pool, "cell")["cell"].status
    return {"status": status, "left": actors_left()}


def gpus_on_two_of_four_nodes(cluster: Cluster, folder: Path) -> dict[str, Any]:
    """A pool of three groups with a GPU each, on a node with one, which is broken, and on one with two."""
    small = cluster.add_node(num_cpus=2, num_gpus=1, object_store_memory=80_000_000)
    large = cluster.add_node(num_cpus=2, num_gpus=2, object_store_memory=80_000_000)
    request = WorkerRequest(0.5, 1)
    found: dict[str, Any] = {"large": large.node_id, "groups": available_groups(1, request)}
    found["visible"] = [visible_gpus(), gpus_at(cluster.address)]
    began = time.monotonic()
    try:
        available_groups(1, WorkerRequest(1, 3))
    except BadRequestError as error:
        found["refused"] = str(error), time.monotonic() - began
    functions = "several_nodes:set_up_with_a_gpu", "several_nodes:where"
    shared = {"broken": ray.put(small.node_id)}
    with WorkerPool(
        *functions, groups=3, request=request, shared=shared, max_attempts=2, name="gpus", idle_seconds=1.0
    ) as pool:
        gate = folder / "gate"
        found["values"], found["retired"] = rush(pool, gate, ["early-0", "early-1", "early-2"])
        found["seconds_until_gpus_are_free"] = wait_for_free("GPU", 3)
        late, retired = rush(pool, gate, ["late-0", "late-1"])
        found["values"] += late
        found["retired"] += retired
    return found


def rush(pool: WorkerPool, gate: Path, jobs: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Runs jobs, which wait for the first group to be retired; returns their values, and why groups were retired."""
    for job in jobs:
        pool.submit(job, {"gate": str(gate)})
    values, retired = [], []
    while len(values) < len(jobs):
        for event in pool.poll():
            if isinstance(event, JobOutcome):
                assert event.status == "done", event.error
                values.append(event.value)
            elif isinstance(event, GroupRetired):
                retired.append(event.reason)
                gate.touch()
    return values, retired


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    CASE.run(folder / "alone")
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    try:
        with connect(cluster.address):
            found = {"cell": one_cell_on_two_nodes(folder), "gpus": gpus_on_two_of_four_nodes(cluster, folder)}
        (folder / "found.json").write_text(json.dumps(found))
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
