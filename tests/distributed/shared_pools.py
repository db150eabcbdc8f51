"""The pools that modules of this folder share.

A pool takes some ten seconds to start. A shared one is opened at its first use and stays open until the tests go on to
another folder. Workers take a quarter of a CPU each, so that both pools and those of single tests fit into two CPUs.
"""

import numpy as np
import pool_jobs
import ray

from adapad_ray.distributed import WorkerPool, WorkerRequest
from adapad_ray.distributed.shared_backbone import share_backbone
from adapad_ray.testing import tiny_backbone, tiny_task


class SharedPools:
    """Pools by name: `groups` has two groups of one worker, `pair` one group of two, which also computes cells."""

    def __init__(self) -> None:
        self._pools: dict[str, WorkerPool] = {}
        self._shared: list[dict[str, ray.ObjectRef]] = []

    def open(self, name: str) -> WorkerPool:
        """The pool of this name; a job of it may start twice."""
        if name not in self._pools:
            if name == "groups":
                functions, shape = (pool_jobs.set_up, pool_jobs.run), {"groups": 2}
                shared = {"numbers": ray.put(np.arange(3))}
            else:
                functions, shape = (pool_jobs.open_workspace_and_state, pool_jobs.compute_or_run), {"workers": 2}
                shared = {"backbone": ray.put(share_backbone(tiny_backbone())), "data": ray.put(tiny_task())}
            self._shared.append(shared)  # objects live as long as their references
            pool = WorkerPool(
                *functions, **shape, request=WorkerRequest(0.25), shared=shared, max_attempts=2, name=name
            )
            self._pools[name] = pool.__enter__()
        return self._pools[name]

    def close(self, *, but: str | None = None) -> None:
        """Closes all pools, or all but one."""
        for name in self._pools.keys() - {but}:
            self._pools.pop(name).close()


POOLS = SharedPools()
