"""Files of the user: written so that they are either complete or absent, and data looked for before anything slow."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from adapad_ray.errors import BadRequestError, UnreachableError
from adapad_ray.wording import listed

_SAMPLE = 2**20
"""Bytes that are written to see whether a disk is full: on many an empty file still fits."""

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Of files of rows."""
_MOST_NAMES = 5
"""Files of a folder that a message names."""


@contextmanager
def atomic_path(path: Path | str, *, overwrite: bool = True) -> Iterator[Path]:
    """Yields a temporary path in the same folder, with the same suffix, and renames it to `path` if the block succeeds.

    Without `overwrite` an existing file is kept, and the new one is deleted. Who may read the file is for the umask to
    say, also where its writer makes files that only their owner can read, as safetensors does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        temporary.unlink()
        yield temporary
        if temporary.stat().st_mode != mode:
            temporary.chmod(mode)
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
    paths = [Path(folder).absolute(), *Path(folder).absolute().parents]
    nearest = next(path for path in paths if os.path.lexists(path))  # a link that leads nowhere is in the way
    with tempfile.TemporaryFile(dir=nearest) as file:
        file.write(b"\0" * _SAMPLE)


def unwritable(folder: Path | str, error: Exception) -> BadRequestError:
    """The error for an output folder that cannot be written."""
    reason = error.strerror if isinstance(error, OSError) else None
    if reason is None:  # shutil.Error lists what each file has met with
        found = re.search(r"\[Errno \d+\] ([^:'\"]+)", str(error))
        reason = found[1] if found else str(error)
    return BadRequestError(f"output folder {folder} cannot be written: {reason}")


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Lets the block write to a folder that is empty or does not exist yet, and leaves it so if the block cannot.

    Raises:
        BadRequestError: the folder is not empty, or cannot be written.
    """
    require_empty(folder)
    existed = folder.is_dir()
    try:
        require_writable(folder)
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        if existed:
            folder.mkdir(exist_ok=True)
        raise unwritable(folder, error) from error


def sqlite_url(path: Path, options: Mapping[str, str] | None = None) -> str:
    """The URL of a SQLite database for SQLAlchemy, whatever characters the path holds.

    Raises:
        BadRequestError: SQLAlchemy would read another path from it, as versions before 2.1 do if it has a `?`.
    """
    from sqlalchemy.engine import URL, make_url

    url = URL.create("sqlite", database=str(path), query=dict(options or {})).render_as_string(hide_password=False)
    if make_url(url).database != str(path):
        raise BadRequestError(f"the database {path} cannot be addressed: choose a folder without ? and % in its name")
    return url


def require_empty(folder: Path) -> None:
    """Checks that a folder can be created or filled.

    Raises:
        BadRequestError: `folder` is a file or a folder with content.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise BadRequestError(f"{folder} exists and is not an empty folder: choose another")


def check_adapter_folder(folder: Path) -> None:
    """Checks that an adapter may be in a folder, before its files are looked at.

    Raises:
        BadRequestError: there is no such folder.
    """
    if not folder.is_dir():
        raise BadRequestError(f"adapter {folder} is not a folder: pass the one that holds adapter_config.json")


def check_data_file(given: str, split: str) -> None:
    """Checks that there is a file of rows at a path.

    Raises:
        BadRequestError: it is a URL, a folder, a pipe or a device.
        UnreachableError: it does not exist.
    """
    path = Path(os.path.expanduser(given))
    if os.path.isfile(path):  # Path.is_file raises for a name that is too long for a file
        return
    check_place(given, split)
    if os.path.exists(path):
        raise BadRequestError(f"the {split} file {given!r} is a pipe or a device: write its content to a file")
    raise UnreachableError(f"the {split} file {given!r} does not exist: pass the path of a file")


def check_place(given: str, split: str) -> None:
    """Checks that what is given as a file is neither a URL nor a folder; it need not exist.

    Raises:
        BadRequestError: it is one of them.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", given):
        local = given.lower().startswith("file://")
        remedy = "pass its path without file://" if local else "download it and pass the path of the file"
        raise BadRequestError(f"the {split} file {given!r} is a URL, and data are read from local files only: {remedy}")
    path = Path(os.path.expanduser(given))
    if os.path.isdir(path):
        raise BadRequestError(f"the {split} file {given!r} is a folder: {_which_file(path, split)}")


def _which_file(folder: Path, split: str) -> str:
    """What to pass instead of a folder: one of the files in it, those named for the split first."""
    found = (name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in DATA_SUFFIXES)
    names = sorted(found, key=lambda name: (split.removeprefix("test_") not in name.lower(), name))
    if not names:
        return f"it holds no {', '.join(DATA_SUFFIXES)} file: pass the path of one"
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return f"pass the path of a file in it ({listed(names[:_MOST_NAMES])}{more})"
