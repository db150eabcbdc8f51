"""Where results lie: a folder, or a URL of any store that fsspec knows, of which this machine works on a copy."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import fsspec

from adapad_ray.errors import BadRequestError, StorageError

OF_A_NODE = ("file", "local")
"""Schemes of places that another node has not, or not the same."""
CHECKPOINT = "checkpoint"
"""Folder of a cell's state in training, which is removed when the cell is finished."""
RECORD = "result.json"
"""What says that a cell is finished."""


def is_url(place: str) -> bool:
    """Whether a place is a URL; else it is a folder."""
    return "://" in place


def check_url(url: str) -> None:
    """Refuses what cannot be storage anywhere; whether this machine has the store's package is another matter.

    Raises:
        BadRequestError: of no kind that fsspec knows, not the same place in every process, or with a password in it.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise BadRequestError(f"storage {url!r} is no URL: {error}") from error
    if parts.password is not None:
        raise BadRequestError(
            "storage holds a password, which would be recorded with the results: give it where the store's own tools "
            "look for it, in the environment of every node"
        )
    if "::" in url or parts.scheme not in fsspec.available_protocols():
        raise BadRequestError(f"storage {url!r} is of no kind that fsspec knows: write a folder, s3://… or gs://…")
    if parts.scheme == "memory":
        raise BadRequestError(f"storage {url!r} would be another one in every process: choose a store that lasts")
    if parts.scheme in OF_A_NODE and parts.netloc:
        raise BadRequestError(f"storage {url!r} has no path from the root: write {parts.scheme}:///{parts.netloc}…")
    if not (parts.netloc or parts.path.strip("/")):
        raise BadRequestError(f"storage {url!r} names no place: write one, as in {url}bucket/runs")


class Store:
    """The files below a URL. Its methods raise `StorageError` where the store does not do as it is told.

    Raises:
        BadRequestError: no store can be opened there.
    """

    def __init__(self, url: str) -> None:
        check_url(url)
        self.url = url.rstrip("/")
        try:
            of_objects = fsspec.get_filesystem_class(urlsplit(url).scheme).async_impl
            # Listings of objects are not to be those of a moment ago. Other stores take no such option.
            options = {"use_listings_cache": False} if of_objects else {}
            self._files, self._root = fsspec.url_to_fs(self.url, skip_instance_cache=True, **options)
        except ImportError as error:
            raise BadRequestError(f"storage {url!r} needs a package that this machine lacks: {error}") from error
        except Exception as error:  # some connect at once, and every kind has errors of its own
            raise BadRequestError(f"storage {url!r} cannot be opened ({type(error).__name__}: {error})") from error
        self._has_folders = not of_objects

    def names(self, below: str = "") -> list[str]:
        """The files' names, relative to the URL."""
        options = {"on_error": _raise_unless_gone} if self._has_folders else {}
        with self._faults_of(below):
            found = self._files.find(f"{self._root}/{below}" if below else self._root, **options)
        names = [path.removeprefix(self._root).lstrip("/") for path in found]
        for name in names:
            if ".." in name.split("/"):
                raise StorageError(f"{self.url} holds {name!r}, which leads out of it: remove it")
        return [name for name in names if name and not name.endswith("/")]  # such stand for empty folders

    def read(self, name: str) -> bytes | None:
        """A small file's content, or None where there is none."""
        with self._faults_of(name), suppress(FileNotFoundError):
            return bytes(self._files.cat_file(f"{self._root}/{name}"))
        return None

    def write(self, name: str, content: bytes) -> None:
        """Makes or replaces a small file; readers see the old content or the new."""
        with self._replaced(name) as path:
            self._files.pipe_file(path, content)

    def bring(self, name: str, to: Path) -> bool:
        """Copies a file here, one version of it as a whole; whether it was still there."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with self._faults_of(name), suppress(FileNotFoundError):
            with self._files.open(f"{self._root}/{name}", "rb") as source, to.open("wb") as target:
                shutil.copyfileobj(source, target)
            return True
        return False

    def send(self, path: Path, name: str) -> None:
        """Makes or replaces a file from one that is here; readers see the old one or the new."""
        with self._replaced(name) as target:
            self._files.put_file(str(path), target)

    def remove(self, name: str) -> None:
        """Removes a file that is still there."""
        with self._faults_of(name), suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    @contextmanager
    def _replaced(self, name: str) -> Iterator[str]:
        """Where to write a file so that it appears at one go: stores of objects do that by themselves."""
        path = f"{self._root}/{name}"
        folder, _, last = path.rpartition("/")
        with self._faults_of(name):
            if self._has_folders:
                self._files.makedirs(folder, exist_ok=True)
                scratch = f"{folder}/.{last}.{secrets.token_hex(4)}"
                yield scratch
                self._files.mv(scratch, path)
            else:
                yield path

    @contextmanager
    def _faults_of(self, name: str) -> Iterator[None]:
        """Every kind of store raises errors of its own kind."""
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
    """A folder of this machine; where `store` is not None, a copy of what lies there."""

    place: str
    """What it is called everywhere: the folder's path or the store's URL."""
    path: Path
    store: Store | None = None
    _known: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Of files that are the same in the store: when they were written here (ns), and their size (bytes)."""

    def within(self, *names: str) -> str:
        """A folder inside, as it is called everywhere."""
        return "/".join([self.place, *names])

    def read(self, name: str) -> str | None:
        """The text of a file as it is everywhere, or None where there is none."""
        if self.store is not None:
            content = self.store.read(name)
            return None if content is None else content.decode()
        path = self.path / name
        return path.read_text(encoding="utf-8") if path.exists() else None

    def fetch(self, below: str = "", *, checkpoints: bool = False) -> None:
        """Brings what the store has, below one of its folders or everywhere, into the copy."""
        if self.store is None:
            return
        for name in self.store.names(below):
            wanted = checkpoints or CHECKPOINT not in name.split("/")
            # Another worker may have removed it since.
            if wanted and _is_visible(name) and self.store.bring(name, self.path / name):
                self._known[name] = _stamp(self.path / name)

    def save(self) -> None:
        """Brings what has changed in the copy into the store, hidden files excepted.

        Checkpoints go after the rounds that led to them, the record of a cell after everything that it speaks of, and
        then a checkpoint that was fetched or sent and is not here any more is removed: nothing else ever is.

        Raises:
            StorageError: the store cannot be reached, or somebody has removed the copy.
        """
        if self.store is None:
            return
        if not self.path.is_dir():
            raise StorageError(f"{self.path}, this machine's copy of {self.place}, is gone")
        files = {path.relative_to(self.path).as_posix(): path for path in self.path.rglob("*") if path.is_file()}
        for name in sorted(filter(_is_visible, files), key=_turn):
            stamp = _stamp(files[name])
            if self._known.get(name) != stamp:
                self.store.send(files[name], name)
                self._known[name] = stamp
        for name in [name for name in self._known.keys() - files.keys() if CHECKPOINT in name.split("/")]:
            self.store.remove(name)
            del self._known[name]


@contextmanager
def working_folder(place: str) -> Iterator[WorkingFolder]:
    """The folder `place` itself or, for a URL, an empty temporary folder to `fetch` to and `save` from.

    Raises:
        BadRequestError: no store can be opened at the URL.
    """
    if not is_url(place):
        yield WorkingFolder(place, Path(place))
        return
    store = Store(place)
    with tempfile.TemporaryDirectory(prefix="adapad-copy-", ignore_cleanup_errors=True) as folder:
        try:
            yield WorkingFolder(store.url, Path(folder), store)
        except BadRequestError as error:
            if folder not in str(error):
                raise
            raise BadRequestError(str(error).replace(folder, store.url)) from error  # as people know the place


def _turn(name: str) -> tuple[bool, bool]:
    """When a file travels among others."""
    *folders, last = name.split("/")
    return last == RECORD, CHECKPOINT in folders


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
