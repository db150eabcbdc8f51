"""Where results lie: a folder, or a URL of any store that fsspec knows, of which this machine works on a copy."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import fsspec

from adapad_ray.errors import BadRequestError, StorageError


def is_url(place: str) -> bool:
    """Whether a place is a URL; else it is a folder."""
    return "://" in place


def check_url(url: str) -> None:
    """Refuses what cannot be storage anywhere; whether this machine has the store's package is another matter.

    Raises:
        BadRequestError: of no kind that fsspec knows, in the memory of one process, or with a password in it.
    """
    parts = urlsplit(url)
    if parts.password is not None:
        raise BadRequestError(
            "storage holds a password, which would be recorded with the results: give it where the store's own tools "
            "look for it, in the environment of every node"
        )
    if parts.scheme == "memory":
        raise BadRequestError(f"storage {url!r} would be another one in every process: choose a store that lasts")
    if parts.scheme not in fsspec.available_protocols():
        raise BadRequestError(f"storage {url!r} is of no kind that fsspec knows: write a folder, s3://… or gs://…")


class Store:
    """The files below a URL. Its methods raise `StorageError` where the store does not do as it is told.

    Raises:
        BadRequestError: no store can be opened there.
    """

    def __init__(self, url: str) -> None:
        check_url(url)
        self.url = url.rstrip("/")
        try:
            # Its own instance: a transaction belongs to one thread. Listings are not to be those of a moment ago.
            self._files, self._root = fsspec.url_to_fs(self.url, skip_instance_cache=True, use_listings_cache=False)
        except ImportError as error:
            raise BadRequestError(f"storage {url!r} needs a package that this machine lacks: {error}") from error

    def names(self, below: str = "") -> list[str]:
        """The files' names, relative to the URL."""
        with self._faults_of(below):
            found = self._files.find(f"{self._root}/{below}" if below else self._root)
        names = [path.removeprefix(self._root).lstrip("/") for path in found]
        for name in names:
            if ".." in name.split("/"):
                raise StorageError(f"{self.url} holds {name!r}, which leads out of it: remove it")
        return names

    def read(self, name: str) -> bytes | None:
        """A small file's content, or None where there is none."""
        with self._faults_of(name), suppress(FileNotFoundError):
            return bytes(self._files.cat_file(f"{self._root}/{name}"))
        return None

    def write(self, name: str, content: bytes) -> None:
        """Makes or replaces a small file; readers see the old content or the new."""
        with self._replaced(name) as file:
            file.write(content)

    def bring(self, name: str, to: Path) -> bool:
        """Copies a file here; whether it was still there."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with self._faults_of(name), suppress(FileNotFoundError):
            self._files.get_file(f"{self._root}/{name}", str(to))
            return True
        return False

    def send(self, path: Path, name: str) -> None:
        """Makes or replaces a file from one that is here; readers see the old one or the new."""
        with path.open("rb") as source, self._replaced(name) as file:
            shutil.copyfileobj(source, file)

    def remove(self, name: str) -> None:
        """Removes a file that is still there."""
        with self._faults_of(name), suppress(FileNotFoundError):
            self._files.rm_file(f"{self._root}/{name}")

    @contextmanager
    def _replaced(self, name: str) -> Iterator[IO[bytes]]:
        path = f"{self._root}/{name}"
        with self._faults_of(name):
            if not self._files.async_impl:  # stores of objects have no folders, and some would make a bucket
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            with self._files.transaction, self._files.open(path, "wb") as file:
                yield file

    @contextmanager
    def _faults_of(self, name: str) -> Iterator[None]:
        """Every kind of store raises errors of its own kind."""
        try:
            yield
        except Exception as error:
            where = "/".join(filter(None, [self.url, name]))
            raise StorageError(f"{where} cannot be reached ({type(error).__name__}: {error})") from error


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

    def fetch(self, below: str = "") -> None:
        """Brings what the store has, below one of its folders or everywhere, into the copy."""
        if self.store is None:
            return
        for name in filter(_is_visible, self.store.names(below)):
            if self.store.bring(name, self.path / name):  # another worker may have removed it since
                self._known[name] = _stamp(self.path / name)

    def save(self) -> None:
        """Brings what has changed in the copy into the store, hidden files excepted.

        Files travel in the order in which they were written, and removals come last: a kill leaves nothing in the store
        that speaks of what is not there.
        """
        if self.store is None:
            return
        files = {path.relative_to(self.path).as_posix(): path for path in self.path.rglob("*") if path.is_file()}
        stamps = {name: _stamp(path) for name, path in files.items() if _is_visible(name)}
        for name in sorted(stamps, key=lambda name: stamps[name]):
            if self._known.get(name) != stamps[name]:
                self.store.send(files[name], name)
                self._known[name] = stamps[name]
        for name in self._known.keys() - stamps.keys():
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
        yield WorkingFolder(store.url, Path(folder), store)


def _is_visible(name: str) -> bool:
    return not any(part.startswith(".") for part in name.split("/"))


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
