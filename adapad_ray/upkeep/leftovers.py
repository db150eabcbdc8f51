"""What sweeps have left on this machine and nobody needs: found here, and deleted only on request."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import filelock
import psutil

from adapad_ray.assets import cache_folder, file_digest
from adapad_ray.errors import BadRequestError
from adapad_ray.safe_json import read_object
from adapad_ray.storage import CHECKPOINT, MANIFEST, RECORD
from adapad_ray.sweep.lock import FolderLock
from adapad_ray.sweep.manifest import Manifest
from adapad_ray.wording import counted

TEMPORARY = ("adapad-copy-*", "adapad-tune-*", "adapad-submit-*", "adapad-push-*")
"""Folders of launches and workers below the temporary folder; a kill leaves them."""
OLD_SECONDS = 24 * 3600.0
"""A temporary folder in which nothing has changed for so long is nobody's: what is in use changes every minute."""
_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Kind:
    """Why a folder is not needed."""

    one: str
    several: str


SESSION = Kind("Ray cluster that has ended", "Ray clusters that have ended")
KILLED = Kind("temporary folder of a launch that was killed", "temporary folders of launches that were killed")
FINISHED = Kind("checkpoint of a finished cell", "checkpoints of finished cells")
GONE = Kind(
    "checkpoint of a cell that was stopped early or left the file",
    "checkpoints of cells that were stopped early or left the file",
)
COPY = Kind("copy of an adapter that its sweep has too", "copies of adapters that their sweeps have too")
DOWNLOAD = Kind("download, made again when it is needed", "downloads, made again when they are needed")


@dataclass(frozen=True)
class Leftover:
    """A folder that can be deleted."""

    path: Path
    kind: Kind
    bytes: int

    def delete(self) -> None:
        """Deletes the folder; does nothing if it is gone by now."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)


@dataclass(frozen=True)
class Group:
    """All leftovers of one kind."""

    leftovers: tuple[Leftover, ...]

    @property
    def bytes(self) -> int:
        """Of all of them."""
        return sum(leftover.bytes for leftover in self.leftovers)

    @property
    def sentence(self) -> str:
        """How many of what, and the folder that holds them."""
        kind = self.leftovers[0].kind
        place = os.path.commonpath([leftover.path.parent for leftover in self.leftovers])
        return f"{counted(len(self.leftovers), kind.one, kind.several)}, in {place}"


def grouped(leftovers: Iterable[Leftover]) -> list[Group]:
    """By kind, the largest first."""
    kinds: dict[Kind, list[Leftover]] = {}
    for leftover in leftovers:
        kinds.setdefault(leftover.kind, []).append(leftover)
    return sorted((Group(tuple(group)) for group in kinds.values()), key=lambda group: -group.bytes)


def find_leftovers(storage: Path, artifacts: Path, *, downloads: bool) -> list[Leftover]:
    """Everything that can be deleted without a loss; reads folders of this user only, and follows no links.

    Args:
        storage: the folder of sweeps.
        artifacts: the folder of MLflow's artifacts.
        downloads: whether packaged models and data count, which the next sweep would download again.
    """
    temporary = Path(tempfile.gettempdir())
    found = [*_ended_sessions(temporary / "ray"), *_temporary(temporary)]
    found += [*_checkpoints(storage), *_copies_of_adapters(storage, artifacts)]
    if downloads:
        found += [*_folders(cache_folder(), "*", DOWNLOAD)]
    return sorted(found, key=lambda leftover: -leftover.bytes)


def sessions_in_use() -> int:
    """Ray clusters of this user whose processes run on this machine."""
    folder = Path(tempfile.gettempdir()) / "ray"
    return len([*_own_folders(folder, "session_*")]) - len([*_ended_sessions(folder)])


def _ended_sessions(folder: Path) -> Iterator[Leftover]:
    """Logs and sockets of Ray clusters whose processes have all ended."""
    commands = _command_lines()
    for found in _folders(folder, "session_*", SESSION):
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
        for found in _folders(folder, pattern, KILLED):
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
                yield from _folders(cell, CHECKPOINT, FINISHED)
            elif labels is not None and cell.name not in labels:
                yield from _folders(cell, CHECKPOINT, GONE)


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
                yield Leftover(copy, COPY, _size(copy))


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


def _folders(parent: Path, pattern: str, kind: Kind) -> Iterator[Leftover]:
    return (Leftover(path, kind, _size(path)) for path in _own_folders(parent, pattern))


def _own_folders(parent: Path, pattern: str) -> Iterator[Path]:
    """This user's folders that match, and are no links."""
    for path in sorted(parent.glob(pattern)):
        if path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid():
            yield path


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
