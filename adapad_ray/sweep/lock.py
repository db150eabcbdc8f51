"""The lock of a sweep's folder: one launch holds it at a time.

A folder is locked through the file system, a store by heartbeats (`store_lock.py`).
"""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock

from adapad_ray.errors import BadRequestError
from adapad_ray.files import unwritable, write_text

HOLDER = ".launch"
"""File that names the launch that holds the lock."""


class SweepLock(ABC):
    """The lock of one sweep; a context manager that acquires and releases it."""

    @property
    @abstractmethod
    def held_by(self) -> str | None:
        """The launch that recorded itself as the holder last, for messages; None without a record."""

    @abstractmethod
    def acquire(self) -> None:
        """Acquires the lock, or fails at once.

        Raises:
            BadRequestError: another launch holds it, or it cannot be written.
        """

    @abstractmethod
    def check(self) -> None:
        """Checks that this launch still holds the lock.

        Raises:
            BadRequestError: another launch has taken it over.
        """

    @abstractmethod
    def release(self) -> None:
        """Releases the lock."""

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class FolderLock(SweepLock):
    """A file lock, which the operating system releases when the process ends, however it ends."""

    FILE = ".lock"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = filelock.FileLock(folder / self.FILE)

    @property
    def held_by(self) -> str | None:
        """Process, host and start of the launch that wrote the holder's file last."""
        try:
            return (self._folder / HOLDER).read_text(encoding="utf-8")
        except OSError:
            return None

    def acquire(self) -> None:
        """Creates the folder and locks it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise BadRequestError(
                f"{self._folder} is in use by {self.held_by or 'another launch'}: wait until it has ended, or choose "
                "another name or --out"
            ) from error
        except OSError as error:
            raise unwritable(self._folder, error) from error
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        try:
            write_text(self._folder / HOLDER, f"process {os.getpid()} on {socket.gethostname()} since {since}")
        except OSError as error:
            self.release()
            raise unwritable(self._folder, error) from error

    def check(self) -> None:
        """Does nothing: no other process can take a file lock over."""

    def release(self) -> None:
        """Releases the lock; its files stay."""
        self._lock.release()
