"""Writing files so that they are either complete or absent."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from adapad_ray.errors import BadRequestError

_SAMPLE = 2**16
"""Bytes that are written to see whether a disk is full: on many an empty file still fits."""


@contextmanager
def atomic_path(path: Path | str, *, overwrite: bool = True) -> Iterator[Path]:
    """Yields a temporary path in the same folder, with the same suffix, and renames it to `path` if the block succeeds.

    Without `overwrite` an existing file is kept, and the new one is deleted.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if overwrite:
            os.replace(temporary, path)
        else:
            with suppress(FileExistsError):
                os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_writable(folder: Path | str) -> None:
    """Checks that files can be written to a folder, or that it can be created; leaves nothing behind.

    Raises:
        OSError: it cannot.
    """
    nearest = next(path for path in [Path(folder).absolute(), *Path(folder).absolute().parents] if path.exists())
    with tempfile.TemporaryFile(dir=nearest) as file:
        file.write(b"\0" * _SAMPLE)


def require_empty(folder: Path) -> None:
    """Checks that a folder can be created or filled.

    Raises:
        BadRequestError: `folder` is a file or a folder with content.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise BadRequestError(f"{folder} exists and is not an empty folder: choose another")
