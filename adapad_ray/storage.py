"""Where results are stored: a folder, or a URL of any store that fsspec supports.

Code that computes or reads results works in a `WorkingFolder`. For a URL this is a temporary copy on this machine, with
`fetch` and `save` to exchange files with the store.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import fsspec

from adapad_ray.errors import BadRequestError, StorageError
from adapad_ray.files import require_writable, unwritable
from adapad_ray.interrupts import within

DEFAULT_FOLDER = "runs"
LONGEST_WAIT = 5.0
"""Seconds in which a store must give its first answer."""
NODE_LOCAL = ("file", "local")
"""URL schemes that mean another folder on every node."""
CHECKPOINT = "checkpoint"
"""Folder with the training state of a running cell; it is removed when the cell is finished."""
RECORD = "result.json"
"""File that exists once a cell is finished."""
MANIFEST = "manifest.yaml"
"""File that every sweep's folder has."""


def is_url(location: str) -> bool:
    """Whether a location is a URL; else it is the path of a folder."""
    return "://" in location


def check_url(url: str) -> None:
    """Rejects URLs that cannot be storage on any machine. It does not check that the store's package is installed.

    Raises:
        BadRequestError: fsspec has no such scheme, it means other storage in every process, or it has a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise BadRequestError(f"storage {url!r} is not a URL: {error}") from error
    if parts.password is not None:
        raise BadRequestError(
            "storage holds a password, which would be recorded with the results: set it in the environment of every "
            "node, in the variables of the store's own tools"
        )
    if "::" in url or parts.scheme not in fsspec.available_protocols():
        raise BadRequestError(
            f"storage {url!r} has a scheme that fsspec does not support: use a folder, s3://… or gs://…"
        )
    if parts.scheme == "memory":
        raise BadRequestError(f"storage {url!r} is the memory of one process: use a folder or a persistent store")
    if parts.scheme in NODE_LOCAL and parts.netloc:
        raise BadRequestError(f"storage {url!r} is not an absolute path: use {parts.scheme}:///{parts.netloc}…")
    if not (parts.netloc or parts.path.strip("/")):
        raise BadRequestError(f"storage {url!r} has no path: add one, as in {url}bucket/runs")


class Store:
    """The files below a URL. All methods raise `StorageError` if the store cannot be reached or reports an error.

    Raises:
        BadRequestError: the URL is invalid or its store cannot be opened.
    """

    def __init__(self, url: str) -> None:
        check_url(url)
        self.url = url.rstrip("/")
        try:
            # fsspec's async file systems are object stores: no folders, atomic writes.
            is_object_store = fsspec.get_filesystem_class(urlsplit(url).scheme).async_impl
            # Other nodes write too, so listings must not be cached. Only object stores have this option.
            options = {"use_listings_cache": False} if is_object_store else {}
            opened = partial(fsspec.url_to_fs, self.url, skip_instance_cache=True, **options)
            self._files, self._root = within(LONGEST_WAIT, opened)
        except ImportError as error:
            raise BadRequestError(f"storage {url!r} needs a package that is not installed: {error}") from error
        except Exception as error:  # some stores connect here, and each raises its own errors
            raise BadRequestError(f"storage {url!r} cannot be opened ({type(error).__name__}: {error})") from error
        self._has_folders = not is_object_store

    def check(self) -> None:
        """Checks that the store answers, within seconds; clients of object stores try for minutes.

        Raises:
            BadRequestError: it does not, or it rejects this machine.
        """
        try:
            within(LONGEST_WAIT, partial(self.read, RECORD))
        except (TimeoutError, StorageError) as error:
            raise BadRequestError(
                f"storage {self.url!r} cannot be used ({error}): check the address and the store's credentials"
            ) from error

    def names(self, below: str = "") -> list[str]:
        """Names of all files below a folder of the store, relative to the URL."""
        options = {"on_error": _raise_unless_gone} if self._has_folders else {}
        with self._storage_errors(below):
            paths = self._files.find(f"{self._root}/{below}" if below else self._root, **options)
        names = [path.removeprefix(self._root).lstrip("/") for path in paths]
        for name in names:
            if ".." in name.split("/"):
                raise StorageError(f"{self.url} holds {name!r}, a path outside of it: delete this object")
        return [name for name in names if name and not name.endswith("/")]  # names with a slash mark empty folders

    def read(self, name: str) -> bytes | None:
        """The content of a small file, or None if it does not exist."""
        with self._storage_errors(name), suppress(FileNotFoundError):
            return bytes(self._files.cat_file(f"{self._root}/{name}"))
        return None

    def write(self, name: str, content: bytes) -> None:
        """Writes a small file atomically: readers see the old content or the new."""
        with self._replaced(name) as path:
            self._files.pipe_file(path, content)

    def download(self, name: str, to: Path) -> bool:
        """Copies a file from the store, and returns False if it does not exist. The copy is one version of the file."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with self._storage_errors(name), suppress(FileNotFoundError):
            with self._files.open(f"{self._root}/{name}", "rb") as source, to.open("wb") as target:
                shutil.copyfileobj(source, target)
            return True
        return False

    def upload(self, path: Path, name: str) -> None:
        """Copies a file to the store atomically: readers see the old file or the new."""
        with self._replaced(name) as target:
            self._files.put_file(str(path), target)

    def remove(self, name: str) -> None:
        """Removes a file if it exists."""
        with self._storage_errors(name), suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    @contextmanager
    def _replaced(self, name: str) -> Iterator[str]:
        """Yields a path to write to and then moves it; writes of object stores are atomic and need no move."""
        path = f"{self._root}/{name}"
        folder, _, last = path.rpartition("/")
        with self._storage_errors(name):
            if self._has_folders:
                self._files.makedirs(folder, exist_ok=True)
                scratch = f"{folder}/.{last}.{secrets.token_hex(4)}"
                yield scratch
                self._files.mv(scratch, path)
            else:
                yield path

    @contextmanager
    def _storage_errors(self, name: str) -> Iterator[None]:
        """Turns every error into a `StorageError`; each store has its own exceptions."""
        try:
            yield
        except Exception as error:
            where = "/".join(filter(None, [self.url, name]))
            raise StorageError(f"{where} cannot be reached ({type(error).__name__}: {error})") from error


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


@dataclass
class WorkingFolder:
    """A folder on this machine; if `store` is set, a copy of what the store holds."""

    location: str
    """The folder's path or the store's URL, which is valid on every node."""
    path: Path
    """The folder on this machine; equal to `location` without a store."""
    store: Store | None = None
    _synced: dict[str, tuple[int, int]] = field(default_factory=dict)
    """File → modification time in ns and size in bytes, for files that are the same in the store."""

    def within(self, *names: str) -> str:
        """The location of a file or folder inside."""
        return "/".join([self.location, *names])

    def check(self) -> None:
        """Checks within seconds that files can be written to the folder, or that the store answers; writes none.

        Raises:
            BadRequestError: it cannot be used.
        """
        if self.store is not None:
            self.store.check()
            return
        try:
            require_writable(self.path)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def read(self, name: str) -> str | None:
        """The text of a file, from the store if there is one; None if it does not exist."""
        if self.store is not None:
            content = self.store.read(name)
            return None if content is None else content.decode()
        path = self.path / name
        return path.read_text(encoding="utf-8") if path.exists() else None

    def fetch(self, below: str = "", *, checkpoints: bool = False) -> None:
        """Downloads all files below a folder of the store, hidden files and (by default) checkpoints excepted."""
        if self.store is None:
            return
        for name in self.store.names(below):
            wanted = checkpoints or CHECKPOINT not in name.split("/")
            # Another worker may have removed the file since it was listed.
            if wanted and _is_visible(name) and self.store.download(name, self.path / name):
                self._synced[name] = _stamp(self.path / name)

    def save(self) -> None:
        """Uploads all files that have changed, hidden files excepted.

        A checkpoint is uploaded after the rounds before it, and a cell's record last, so that an interrupted upload is
        consistent. Then checkpoints that were removed here are removed from the store; other files are never removed.

        Raises:
            StorageError: the store cannot be reached, or the copy was removed.
        """
        if self.store is None:
            return
        if not self.path.is_dir():
            raise StorageError(f"{self.path}, this machine's copy of {self.location}, was removed")
        files = {path.relative_to(self.path).as_posix(): path for path in self.path.rglob("*") if path.is_file()}
        for name in sorted(filter(_is_visible, files), key=_upload_order):
            stamp = _stamp(files[name])
            if self._synced.get(name) != stamp:
                self.store.upload(files[name], name)
                self._synced[name] = stamp
        for name in [name for name in self._synced.keys() - files.keys() if CHECKPOINT in name.split("/")]:
            self.store.remove(name)
            del self._synced[name]


@contextmanager
def working_folder(location: str) -> Iterator[WorkingFolder]:
    """Yields the folder itself or, for a URL, an empty temporary folder to `fetch` to and `save` from.

    Raises:
        BadRequestError: the URL is invalid or its store cannot be opened.
    """
    if not is_url(location):
        yield WorkingFolder(location, Path(location))
        return
    store = Store(location)
    with tempfile.TemporaryDirectory(prefix="adapad-copy-", ignore_cleanup_errors=True) as folder:
        try:
            yield WorkingFolder(store.url, Path(folder), store)
        except BadRequestError as error:
            if folder not in str(error):
                raise
            raise BadRequestError(str(error).replace(folder, store.url)) from error


@contextmanager
def fetched_folder(location: str) -> Iterator[WorkingFolder]:
    """Yields a working folder that holds everything of a finished or interrupted sweep, checkpoints excepted.

    Raises:
        BadRequestError: the location holds no sweep, or as `working_folder`.
    """
    with working_folder(location if is_url(location) else str(Path(location).absolute())) as folder:
        folder.fetch()
        require_sweep(folder.path)
        yield folder


def require_sweep(folder: Path) -> None:
    """Checks that a folder is a sweep's.

    Raises:
        BadRequestError: it is not.
    """
    if not (folder / MANIFEST).is_file():
        raise BadRequestError(
            f"{folder} holds no sweep ({MANIFEST} is missing): pass the folder that `adapad sweep` printed"
        )


def _upload_order(name: str) -> tuple[bool, bool]:
    """Sort key of a file."""
    *folders, last = name.split("/")
    return last == RECORD, CHECKPOINT in folders


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
