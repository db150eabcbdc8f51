"""The lock of a sweep in a store, such as S3.

Stores have no locks. The holder writes a heartbeat every 15 s, and the lock expires after 60 s without one.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from contextlib import suppress

import psutil
from pydantic import BaseModel, ValidationError

from adapad_ray.errors import BadRequestError, StorageError
from adapad_ray.storage import Store
from adapad_ray.sweep.lock import HOLDER, SweepLock

HEARTBEAT_SECONDS = 15.0
"""Between two heartbeats."""
EXPIRY_SECONDS = 60.0
"""After the last heartbeat. The clocks of two machines must differ by less than this."""


class Heartbeat(BaseModel):
    """The content of the holder's file."""

    token: str
    """Random, one per launch."""
    host: str
    process: int
    time: float
    """Seconds since 1970."""

    @property
    def launch(self) -> str:
        """The launch, for messages."""
        return f"process {self.process} on {self.host}"

    @property
    def age(self) -> float:
        """Seconds since it was written."""
        return time.time() - self.time

    @property
    def is_alive(self) -> bool:
        """Whether the lock has not expired; a process of this machine must also still exist."""
        killed = self.host == socket.gethostname() and not psutil.pid_exists(self.process)
        return self.age < EXPIRY_SECONDS and not killed


class StoreLock(SweepLock):
    """A lock by heartbeats.

    Two launches that start at the same moment may both acquire it. The first to write loses it at its next heartbeat.
    Until then both write the same cells, each as a whole; for the studies of a search the last to write wins.

    Raises:
        BadRequestError: no store can be opened at the URL.
    """

    def __init__(self, url: str) -> None:
        # A store of its own: the thread must not share a connection with the launch.
        self._store, self._token = Store(url), secrets.token_hex(8)
        self._taken_by: str | None = None
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="sweep-lock", daemon=True)

    @property
    def held_by(self) -> str | None:
        """The launch of the last heartbeat, if that has not expired."""
        heartbeat = self._read()
        return heartbeat.launch if heartbeat is not None and heartbeat.is_alive else None

    def acquire(self) -> None:
        """Writes the first heartbeat, and starts the thread that writes the others."""
        try:
            self._reject_holder()
            self._write()
            self._reject_simultaneous()
        except StorageError as error:
            raise BadRequestError(str(error)) from error
        self._thread.start()

    def check(self) -> None:
        """Checks what the thread saw at its last heartbeat."""
        if self._taken_by is not None:
            raise BadRequestError(
                f"{self._store.url} was taken over by {self._taken_by}, which continues from the finished cells"
            )

    def release(self) -> None:
        """Stops the heartbeats and removes the holder's file, unless it is another launch's by now."""
        self._released.set()
        self._thread.join(HEARTBEAT_SECONDS)  # no longer: a store that hangs must not hang the launch
        with suppress(StorageError):  # the lock expires anyway
            heartbeat = self._read()
            if heartbeat is not None and heartbeat.token == self._token:
                self._store.remove(HOLDER)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            with suppress(StorageError):  # a short outage: the next heartbeat tries again
                heartbeat = self._read()
                if heartbeat is not None and heartbeat.token != self._token:
                    self._taken_by = heartbeat.launch
                    return
                self._write()

    def _reject_holder(self) -> None:
        heartbeat = self._read()
        if heartbeat is not None and heartbeat.is_alive:
            raise BadRequestError(
                f"{self._store.url} is in use by {heartbeat.launch}, which wrote {max(heartbeat.age, 0):.0f} s ago: "
                f"wait until it has ended (the lock of a killed launch expires after {EXPIRY_SECONDS:.0f} s), or "
                "choose another name"
            )

    def _reject_simultaneous(self) -> None:
        heartbeat = self._read()
        if heartbeat is not None and heartbeat.token != self._token:
            raise BadRequestError(
                f"{self._store.url} was taken at this moment by {heartbeat.launch}: wait until it has ended"
            )

    def _read(self) -> Heartbeat | None:
        try:
            return Heartbeat.model_validate_json(self._store.read(HOLDER) or b"")
        except ValidationError:  # there is none, or it is damaged
            return None

    def _write(self) -> None:
        heartbeat = Heartbeat(token=self._token, host=socket.gethostname(), process=os.getpid(), time=time.time())
        self._store.write(HOLDER, heartbeat.model_dump_json().encode())
