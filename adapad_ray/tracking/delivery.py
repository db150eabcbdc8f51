"""Writes to a store that may be down for a while: what cannot be written waits, in order."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from time import monotonic

from adapad_ray.interrupts import interrupts_delayed
from adapad_ray.tracking.reasons import reason_of

logger = logging.getLogger(__name__)


class Deliveries:
    """A queue of writes to the store.

    If the store fails, one warning is logged and the writes wait. They are tried again with the next write, at most
    every `retry_seconds`.

    Args:
        store: name of the store, for messages.
        refresh: reads the state of the store again after a failure, because a failed write may have arrived.
    """

    def __init__(self, store: str, refresh: Callable[[], object], retry_seconds: float = 30.0) -> None:
        self.retry_seconds = retry_seconds
        self._store, self._refresh = store, refresh
        self._waiting: deque[Callable[[], None]] = deque()
        self._failed_at: float | None = None
        """When the store last failed, in seconds of the monotonic clock; None while it works."""

    def send_unless_down(self, write: Callable[[], None]) -> bool:
        """Writes something of passing interest; it is dropped while the store is down."""
        return self._failed_at is None and self.send(write, keep=False)

    def send(self, write: Callable[[], None], *, now: bool = False, keep: bool = True) -> bool:
        """Writes what waits and then `write`; returns whether everything was delivered.

        Shortly after a failure the store is not tried, unless `now`.

        Args:
            keep: whether `write` waits if it fails.
        """
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        self._waiting.append(write)
        was_down = self._failed_at is not None
        if self._failed_at is not None and not now and monotonic() - self._failed_at < self.retry_seconds:
            return False
        try:
            with interrupts_delayed():
                if was_down:
                    self._refresh()
                while self._waiting:
                    self._waiting[0]()
                    self._waiting.popleft()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            if not was_down:
                logger.warning(
                    "MLflow's store %s is unavailable (%s): the sweep continues and logs to it later",
                    self._store,
                    reason_of(error),
                )
            self._failed_at = monotonic()
            if not keep:
                self._waiting.remove(write)
            return False
        if was_down:
            logger.warning("MLflow's store %s is available again: everything was logged", self._store)
            self._failed_at = None
        return True
