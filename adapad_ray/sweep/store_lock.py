"""A sweep's place in a store belongs to one launch at a time.

Stores have no locks: the holder says again and again that it is there, and is forgotten after a silence.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil
from pydantic import BaseModel, ValidationError

from adapad_ray.errors import BadRequestError, StorageError
from adapad_ray.storage import Store

HOLDER = ".launch"
"""The file in which it does so."""
BEAT_SECONDS = 15.0
"""Between two signs of life."""
SILENCE_SECONDS = 60.0
"""After which a holder is forgotten: it was killed. Clocks of two machines may differ by less than that."""


class Holder(BaseModel):
    """The launch at work, as its last sign of life says."""

    token: str
    host: str
    process: int
    time: float
    """Seconds since 1970."""

    @property
    def who(self) -> str:
        """For people."""
        return f"process {self.process} on {self.host}"

    @property
    def gone(self) -> bool:
        """Whether it has been killed on this machine."""
        return self.host == socket.gethostname() and not psutil.pid_exists(self.process)


@contextmanager
def leased(url: str) -> Iterator[Callable[[], None]]:
    """Holds the place while the block runs; gives a check that raises `BadRequestError` once another launch has it.

    Two launches that begin in the same moment may both get it; then the first to write is refused at its next sign of
    life. Cells are written whole and are the same for both; of a search's studies the last to write wins.

    Raises:
        BadRequestError: another launch holds it, or the store cannot be read and written.
    """
    store, token = Store(url), secrets.token_hex(8)
    taken_by: list[str] = []
    try:
        _refuse_holder(store)
        _write(store, token)
        _refuse_other(store, token)
    except StorageError as error:
        raise BadRequestError(str(error)) from error
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            with suppress(StorageError):  # a store that is away for a moment; the next beat tries again
                holder = _read(store)
                if holder is not None and holder.token != token:
                    taken_by.append(holder.who)
                    return
                _write(store, token)

    def check() -> None:
        if taken_by:
            raise BadRequestError(f"{url} was taken over by {taken_by[0]}, which goes on from what is finished")

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join(BEAT_SECONDS)  # a store that hangs is not to hang the launch
        with suppress(StorageError):  # it is forgotten soon anyway
            holder = _read(store)
            if holder is not None and holder.token == token:
                store.remove(HOLDER)


def _refuse_holder(store: Store) -> None:
    holder = _read(store)
    if holder is None:
        return
    silent = time.time() - holder.time
    if silent < SILENCE_SECONDS and not holder.gone:
        raise BadRequestError(
            f"{store.url} is in use by {holder.who}, which wrote {max(silent, 0):.0f} s ago: wait until it has ended "
            f"(one that was killed is forgotten after {SILENCE_SECONDS:.0f} s), or choose another name"
        )


def _refuse_other(store: Store, token: str) -> None:
    holder = _read(store)
    if holder is not None and holder.token != token:
        raise BadRequestError(f"{store.url} was taken in this moment by {holder.who}: wait until it has ended")


def _read(store: Store) -> Holder | None:
    try:
        return Holder.model_validate_json(store.read(HOLDER) or b"")
    except ValidationError:  # none, or damaged
        return None


def _write(store: Store, token: str) -> None:
    holder = Holder(token=token, host=socket.gethostname(), process=os.getpid(), time=time.time())
    store.write(HOLDER, holder.model_dump_json().encode())
