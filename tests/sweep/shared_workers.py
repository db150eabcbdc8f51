"""The worker groups that sweeps on the session's cluster use one after another.

Opening a pool costs a sweep some ten seconds, most of them imports of its processes. A pool stays open for the next
sweep with the same model, data and resources.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from adapad_ray.sweep.executor import Executor, RayExecutor, ray_executor
from adapad_ray.sweep.inputs import LoadedInputs
from adapad_ray.sweep.planning.packing import most_cells
from adapad_ray.sweep.spec import SweepSpec

EVERY_CELL = 1_000
"""More cells than there are groups on any cluster, so that a pool is as large as the cluster allows."""


class SharedWorkers:
    """Opens executors in place of `ray_executor`, which opens the pool whenever another one is wanted."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._kind: object = None

    @contextmanager
    def executor(self, spec: SweepSpec, loaded: LoadedInputs, cells: int) -> Iterator[Executor]:
        """The executor of a sweep, on the pool that is open if it is of the right kind."""
        inputs = loaded.inputs
        settings = (spec.resources.model_dump_json(), spec.max_attempts, spec.dtype, inputs.precision)
        kind = (loaded.recipe.frame.digest, inputs.data.digest, *settings)
        if kind != self._kind:
            self.close()
            self._pool = self._open.enter_context(ray_executor(spec, loaded, EVERY_CELL))._pool
            self._kind = kind
        try:
            yield RayExecutor(self._pool, spec.name, most_cells(spec.resources))
        except BaseException:
            self.close()  # it may have jobs that nobody waits for
            raise

    def close(self) -> None:
        """Closes the pool that is open."""
        self._kind = None
        self._open.close()


WORKERS = SharedWorkers()
