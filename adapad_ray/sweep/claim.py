"""The folder of a sweep belongs to one launch at a time, and to one model and task for ever."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from adapad_ray.errors import BadRequestError
from adapad_ray.files import write_text
from adapad_ray.sweep.document import read_yaml
from adapad_ray.sweep.spec import SweepSpec

SPEC = "spec.yaml"
"""The sweep's file as resolved."""
LOCK, HOLDER = ".lock", ".launch"
"""The first is locked by the launch at work, which says in the second who it is. The lock ends with its process."""
_FIXED = ("model", "task", "pooling", "dtype")
"""What all cells of a folder share."""


@contextmanager
def claimed(folder: Path, spec: SweepSpec) -> Iterator[None]:
    """Holds a sweep's folder while the block runs, with `spec` recorded in it.

    Raises:
        BadRequestError: another launch holds it, it belongs to a sweep of another model or task, or it cannot be
            written.
    """
    _check_owner(folder, spec)
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BadRequestError(
            f"{folder} is in use by {_holder(folder)}: wait until it has ended, or choose another name or --out"
        ) from error
    except OSError as error:
        raise BadRequestError(f"output folder {folder} cannot be written: {error.strerror}") from error
    try:
        try:
            write_text(folder / HOLDER, f"process {os.getpid()} on {socket.gethostname()} since {_now()}")
            write_text(folder / SPEC, yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False))
        except OSError as error:
            raise BadRequestError(f"output folder {folder} cannot be written: {error.strerror}") from error
        yield
    finally:
        lock.release()


def _check_owner(folder: Path, spec: SweepSpec) -> None:
    path = folder / SPEC
    if not path.exists():
        return
    theirs, mine = read_yaml(path.read_text(encoding="utf-8"), str(path)), spec.model_dump(mode="json")
    for key in _FIXED:
        if theirs.get(key) != mine[key]:
            raise BadRequestError(
                f"{folder} belongs to a sweep with {key} {theirs.get(key)!r}, not {mine[key]!r}: "
                "choose another name or --out"
            )


def _holder(folder: Path) -> str:
    try:
        return (folder / HOLDER).read_text(encoding="utf-8")
    except OSError:
        return "another launch"  # which has not yet said who it is


def _now() -> str:
    return datetime.now().astimezone().isoformat(" ", "seconds")
