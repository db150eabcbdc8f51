"""The folder of a sweep belongs to one launch at a time, and to one model and task for ever."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from adapad_ray.errors import BadRequestError
from adapad_ray.files import write_text
from adapad_ray.safe_yaml import read_yaml
from adapad_ray.storage import WorkingFolder
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.sweep.store_lock import HOLDER, leased
from adapad_ray.tasks import parse_source

SPEC = "spec.yaml"
"""The sweep's file as resolved."""
LOCK = ".lock"
"""Locked by the launch at work, which says in the file `HOLDER` who it is. The lock ends with its process."""
_FIXED = ("model", "task", "pooling", "dtype")
"""What all cells of a folder share."""


@contextmanager
def claimed(place: WorkingFolder, spec: SweepSpec) -> Iterator[Callable[[], None]]:
    """Holds a sweep's place while the block runs, with `spec` recorded in it; a copy of a store is fetched first.

    Gives a check to be called now and then: it raises `BadRequestError` once another launch has taken over.

    Raises:
        BadRequestError: another launch holds it, it belongs to a sweep of another model or task, or it cannot be
            written.
    """
    if place.store is not None:
        with leased(place.store.url) as check:
            _check_owner(place, spec)
            place.fetch()
            _record(place.path, spec)
            place.save()
            yield check
        return
    _check_owner(place, spec)
    with _locked(place.path):
        _record(place.path, spec)
        yield lambda: None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BadRequestError(
            f"{folder} is in use by {_holder(folder)}: wait until it has ended, or choose another name or --out"
        ) from error
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        try:
            write_text(folder / HOLDER, f"process {os.getpid()} on {socket.gethostname()} since {_now()}")
        except OSError as error:
            raise _unwritable(folder, error) from error
        yield
    finally:
        lock.release()


def _record(folder: Path, spec: SweepSpec) -> None:
    try:
        write_text(folder / SPEC, yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False))
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> BadRequestError:
    return BadRequestError(f"output folder {folder} cannot be written: {error.strerror}")


def _check_owner(place: WorkingFolder, spec: SweepSpec) -> None:
    text = place.read(SPEC)
    if text is None:
        return
    theirs, mine = read_yaml(text, place.within(SPEC)), spec.model_dump(mode="json")
    for key in _FIXED:
        if (recorded := _with_defaults(theirs.get(key))) != mine[key]:
            raise BadRequestError(
                f"{place.location} belongs to a sweep with {_difference(key, recorded, mine[key])}: "
                "choose another name or --out"
            )


def _with_defaults(recorded: Any) -> Any:
    """A recorded task with the fields that later versions added: an upgrade does not part a sweep from its folder."""
    if isinstance(recorded, Mapping):
        with suppress(BadRequestError):
            return parse_source(recorded).model_dump(mode="json")
    return recorded


def _difference(name: str, theirs: Any, mine: Any) -> str:
    """`task.train 'a.csv', not 'b.csv'`: of two mappings the first field that differs."""
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        field = next(field for field in [*mine, *theirs] if theirs.get(field) != mine.get(field))
        return _difference(f"{name}.{field}", theirs.get(field), mine.get(field))
    return f"{name} {theirs!r}, not {mine!r}"


def _holder(folder: Path) -> str:
    try:
        return (folder / HOLDER).read_text(encoding="utf-8")
    except OSError:
        return "another launch"  # which has not yet said who it is


def _now() -> str:
    return datetime.now().astimezone().isoformat(" ", "seconds")
