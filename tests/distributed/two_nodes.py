"""One cell twice: alone in this process, and by four workers on two nodes. `test_two_nodes.py` runs it as a process."""

import sys
import time
from pathlib import Path
from typing import Any

import ray
import torch
from pool_helpers import finish
from ray.cluster_utils import Cluster

from adapad_ray.distributed import JobContext, WorkerPool, WorkerRequest, connect
from adapad_ray.distributed.cell_jobs import compute, open_workspace
from adapad_ray.distributed.shared_backbone import share_backbone
from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_backbone, tiny_task
from adapad_ray.training.cell import Workspace

CASE = MethodCase("adapad", 3 * COST_PER_RANK, {"initial_rank": 0, "local_steps": 2, "growth_interval": 4})
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


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


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    CASE.run(folder / "alone")
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    try:
        with connect(cluster.address):
            shared = {"backbone": ray.put(share_backbone(tiny_backbone())), "data": ray.put(tiny_task())}
            functions = open_workspace, "two_nodes:compute_and_tell"
            with WorkerPool(*functions, workers=4, request=WorkerRequest(0.5), shared=shared, name="nodes") as pool:
                content = {"identity": CASE.identity().model_dump(mode="json"), "folder": str(folder / "nodes")}
                content |= {"base_model": "tiny", "checkpoint_seconds": 60.0, "checkpoint_rounds": 3}
                pool.submit("cell", content)
                (folder / "status").write_text(finish(pool, "cell")["cell"].status)
            (folder / "left").write_text(" ".join(actors_left()))
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
