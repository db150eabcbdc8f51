"""What sweeps have left on this machine and nobody needs: found here, and deleted only on request."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import filelock
import psutil

from adapad_ray.assets import cache_folder, file_digest
from adapad_ray.errors import BadRequestError
from adapad_ray.safe_json import read_object
from adapad_ray.storage import CHECKPOINT, RECORD
from adapad_ray.sweep.lock import FolderLock
from adapad_ray.sweep.manifest import MANIFEST, Manifest

TEMPORARY = ("adapad-copy-*", "adapad-tune-*", "adapad-submit-*", "adapad-push-*")
"""Folders of launches and workers below the temporary folder; a kill leaves them."""
OLD_SECONDS = 24 * 3600.0
"""A temporary folder in which nothing has changed for so long is nobody's: what is in use changes every minute."""
_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Leftover:
    """A folder that can be deleted."""

    path: Path
    why: str
    bytes: int

    def delete(self) -> None:
        """Deletes the folder; does nothing if it is gone by now."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)


def find_leftovers(storage: Path, artifacts: Path, *, downloads: bool) -> list[Leftover]:
    """Everything that can be deleted without a loss; reads folders of this user only, and follows no links.

    Args:
        storage: the folder of sweeps.
        artifacts: the folder of MLflow's artifacts.
        downloads: whether packaged models and data count, which the next sweep would download again.
    """
    temporary = Path(tempfile.gettempdir())
    found = [*_ray_sessions(temporary / "ray"), *_temporary(temporary)]
    found += [*_checkpoints(storage), *_copies_of_adapters(storage, artifacts)]
    if downloads:
        found += [*_folders(cache_folder(), "*", "download, made again when it is needed")]
    return sorted(found, key=lambda leftover: -leftover.bytes)


def _ray_sessions(folder: Path) -> Iterator[Leftover]:
    """Logs and sockets of Ray clusters whose processes have all ended."""
    commands = _command_lines()
    for found in _folders(folder, "session_*", "Ray cluster that has ended"):
        name = found.path.name
        process = re.search(r"_(\d+)$", name)
        started_here = process is not None and psutil.pid_exists(int(process[1]))
        if not started_here and name not in commands:
            yield found


def _command_lines() -> str:
    lines = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            lines.append(" ".join(process.cmdline()))
    return "\n".join(lines)


def _temporary(folder: Path) -> Iterator[Leftover]:
    now = time.time()
    for pattern in TEMPORARY:
        for found in _folders(folder, pattern, "temporary folder of a launch that was killed"):
            if now - _last_change(found.path) > OLD_SECONDS:
                yield found


def _checkpoints(storage: Path) -> Iterator[Leftover]:
    """Checkpoints of cells that are finished, were stopped early, or are not in their sweep's file any more."""
    for sweep in _subfolders(storage):
        if not (sweep / MANIFEST).is_file() or _in_use(sweep):
            continue
        try:
            labels = Manifest.load(sweep).labels
        except (BadRequestError, ValueError, KeyError, TypeError):  # damaged: nothing of it is known to be unused
            continue
        for cell in _subfolders(sweep / "cells"):
            if (cell / RECORD).is_file():
                yield from _folders(cell, CHECKPOINT, "checkpoint of a finished cell")
            elif labels is not None and cell.name not in labels:
                yield from _folders(cell, CHECKPOINT, "checkpoint of a cell that was stopped early or left the file")


def _copies_of_adapters(storage: Path, artifacts: Path) -> Iterator[Leftover]:
    """MLflow's copies of adapters that the sweeps' folders have too, byte for byte."""
    cells = {cell.name: cell for sweep in _subfolders(storage) for cell in _subfolders(sweep / "cells")}
    for run in (run for experiment in _subfolders(artifacts) for run in _subfolders(experiment)):
        copy, record = run / "artifacts" / "adapter", run / "artifacts" / RECORD
        if not (copy / _WEIGHTS).is_file() or not record.is_file():
            continue
        with suppress(BadRequestError):  # no record of ours
            cell = cells.get(str(read_object(record, str(record)).get("id")))
            if cell is not None and _same(copy / _WEIGHTS, cell / "adapter" / _WEIGHTS):
                yield Leftover(copy, f"MLflow's copy of {cell / 'adapter'}", _size(copy))


def _same(a: Path, b: Path) -> bool:
    return b.is_file() and a.stat().st_size == b.stat().st_size and file_digest(a) == file_digest(b)


def _in_use(sweep: Path) -> bool:
    lock = sweep / FolderLock.FILE
    if not lock.exists():
        return False
    try:
        with filelock.FileLock(lock).acquire(timeout=0):
            return False
    except (filelock.Timeout, OSError):
        return True


def _folders(parent: Path, pattern: str, why: str) -> Iterator[Leftover]:
    """This user's folders that match, and are no links."""
    for path in sorted(parent.glob(pattern)):
        if path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid():
            yield Leftover(path, why, _size(path))


def _subfolders(parent: Path) -> Iterator[Path]:
    return (path for path in sorted(parent.glob("*")) if path.is_dir() and not path.is_symlink())


def _size(folder: Path) -> int:
    return int(sum(_of_files(folder, lambda status: status.st_size)))


def _last_change(folder: Path) -> float:
    return max([folder.stat().st_mtime, *_of_files(folder, lambda status: status.st_mtime)])


def _of_files(folder: Path, value: Callable[[os.stat_result], float]) -> Iterator[float]:
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # gone by now
                yield value(os.lstat(os.path.join(root, name)))
