"""Passes the events of a worker pool to the driver while Ray Tune holds its main thread."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from ray import tune

from adapad_ray.distributed import JobOutcome, PoolEvent, WorkerPool


class PoolEvents(tune.Callback):  # type: ignore[misc]
    """A callback of Ray Tune that polls the pool between Tune's steps and passes its events on.

    Args:
        on_event: called with every event, in the main thread.
    """

    def __init__(self, pool: WorkerPool, on_event: Callable[[PoolEvent], None] | None) -> None:
        self._pool, self._on_event = pool, on_event
        self._outcomes: dict[str, JobOutcome] = {}
        self.error: Exception | None = None
        """What an event's listener or the pool raised: Tune wraps or swallows it."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its callbacks into a folder that no launch reads."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune after each of its steps."""
        self._forward()

    def outcome(self, cell_id: str) -> JobOutcome | None:
        """The outcome of a cell whose trial has ended; None if it never reached the queue."""
        self._forward()
        return self._outcomes.get(cell_id)

    def outcomes(self, cell_ids: Collection[str]) -> dict[str, JobOutcome]:
        """The outcomes of cells whose trials have ended, by cell id.

        Raises:
            RuntimeError: a trial ended before its cell reached the queue.
        """
        self._forward()
        for cell_id in cell_ids:
            if cell_id not in self._outcomes:
                raise RuntimeError(f"Ray Tune lost the trial of cell {cell_id}: launch the sweep again to compute it")
        return {cell_id: self._outcomes[cell_id] for cell_id in cell_ids}

    def _forward(self) -> None:
        if self.error is not None:
            raise self.error
        try:
            for event in self._pool.poll(timeout=0.0):
                if isinstance(event, JobOutcome):
                    self._outcomes[event.job_id] = event
                if self._on_event is not None:
                    self._on_event(event)
        except Exception as error:
            self.error = error
            raise
