"""The folder of a sweep: where it is, which sweep it belongs to, and one launch at a time in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapad_ray.errors import BadRequestError
from adapad_ray.files import check_data_file, unwritable, write_text
from adapad_ray.safe_yaml import read_yaml, write_yaml
from adapad_ray.storage import DEFAULT_FOLDER, WorkingFolder, is_url, working_folder
from adapad_ray.sweep.lock import FolderLock, SweepLock
from adapad_ray.sweep.store_lock import StoreLock

if TYPE_CHECKING:  # a sweep's folder is checked before anything slow is imported
    from adapad_ray.sweep.spec import SweepSpec

RECORDED_SPEC = "spec.yaml"
"""The resolved file of the sweep."""
SHARED_BY_ALL_CELLS = ("model", "task", "pooling", "dtype", "quantization", "attn_implementation", "precision")
"""Fields of the file that cannot change in a sweep's folder."""


def sweep_location(content: Mapping[str, Any], out: str | None = None) -> str:
    """The sweep's folder or URL: `out` if given, else `<storage>/<name>`.

    Args:
        content: of the sweep's file, which may not be validated yet.
    """
    if out is not None:
        return out if is_url(out) else str(Path(os.path.expanduser(out)).absolute())
    storage, name = text_in(content, "storage", DEFAULT_FOLDER), text_in(content, "name", "")
    if is_url(storage):
        return f"{storage.rstrip('/')}/{name}"
    return str((Path(os.path.expanduser(storage)) / name).absolute())


def text_in(content: Mapping[str, Any], key: str, default: str) -> str:
    """The text of a field of the file; the default where there is none, or something that validation will reject."""
    value = content.get(key, default)
    return str(value) if type(value) in (str, int) else default


@contextmanager
def launch_folder(content: Mapping[str, Any], out: str | None = None) -> Iterator[WorkingFolder]:
    """The folder of a sweep that is about to be launched, after quick checks of what the launch needs besides.

    Nothing slow is imported for them: loading a model may take minutes, and only then would the cluster fail.

    Args:
        content: of the sweep's file, which may not be validated yet.
        out: as for `sweep_location`.

    Raises:
        BadRequestError: the folder, the cluster, the cache, a tracker or a file of data cannot be used.
    """
    from adapad_ray.assets import check_cache
    from adapad_ray.distributed import check_cluster
    from adapad_ray.tracking.store import DEFAULT_STORE, check_store
    from adapad_ray.tracking.writers import check_writers

    with working_folder(sweep_location(content, out)) as folder:
        folder.check()
        check_cluster()
        check_cache(text_in(content, "model", ""), text_in(content, "task", ""))
        check_store(text_in(content, "tracking", DEFAULT_STORE), text_in(content, "name", ""))
        check_writers(tensorboard=content.get("tensorboard") is True, wandb=text_in(content, "wandb", "") or None)
        check_data_files(content)
        yield folder


def check_data_files(content: Mapping[str, Any], *, declared: bool = False) -> None:
    """Checks that the files of a task's splits exist.

    Args:
        content: of the sweep's file, which may not be validated yet.
        declared: whether a task may do without them that says how many rows it has.

    Raises:
        BadRequestError: one is no file.
        UnreachableError: one does not exist.
    """
    task, folder = content.get("task"), text_in(content, "data_dir", "")
    if not isinstance(task, Mapping) or task.get("dataset") is not None or (declared and "examples" in task):
        return
    for split in ("train", "validation", "test"):
        if isinstance(given := task.get(split), str):
            check_data_file(str(Path(folder) / given) if folder else given, split)


@contextmanager
def locked_folder(folder: WorkingFolder, spec: SweepSpec) -> Iterator[SweepLock]:
    """Holds a sweep's folder while the block runs, with the resolved file recorded in it.

    If the folder is in a store, its local copy is fetched first.

    Raises:
        BadRequestError: another launch holds it, it belongs to a sweep of another model or task, or it cannot be
            written.
    """
    if folder.store is None:
        check_owner(folder, spec)
        with FolderLock(folder.path) as lock:
            _record(folder.path, spec)
            yield lock
        return
    with StoreLock(folder.store.url) as lock:
        check_owner(folder, spec)
        folder.fetch()
        _record(folder.path, spec)
        folder.save()
        yield lock


def check_owner(folder: WorkingFolder, spec: SweepSpec) -> None:
    """Rejects a folder that belongs to a sweep of another model or task.

    Raises:
        BadRequestError: names the first field that differs.
    """
    recorded, current = recorded_spec(folder), spec.model_dump(mode="json")
    if recorded is None:
        return
    for key in SHARED_BY_ALL_CELLS:
        if recorded.get(key) != current[key]:
            raise BadRequestError(
                f"{folder.location} belongs to a sweep with {_difference(key, recorded.get(key), current[key])}: "
                "choose another name or --out"
            )


def recorded_spec(folder: WorkingFolder) -> Mapping[str, Any] | None:
    """The resolved file of the sweep that a folder holds; None for a folder without one.

    Raises:
        BadRequestError: the file in the folder is not a sweep's.
    """
    text = folder.read(RECORDED_SPEC)
    if text is None:
        return None
    recorded = read_yaml(text, folder.within(RECORDED_SPEC))
    if not isinstance(recorded, Mapping):
        raise BadRequestError(f"{folder.within(RECORDED_SPEC)} is not a sweep's file: choose another name or --out")
    return recorded


def _difference(name: str, recorded: Any, current: Any) -> str:
    """`task.train 'a.csv', not 'b.csv'`: the first field that differs, if both are mappings."""
    if isinstance(recorded, Mapping) and isinstance(current, Mapping):
        field = next(field for field in [*current, *recorded] if recorded.get(field) != current.get(field))
        return _difference(f"{name}.{field}", recorded.get(field), current.get(field))
    return f"{name} {recorded!r}, not {current!r}"


def _record(folder: Path, spec: SweepSpec) -> None:
    try:
        write_text(folder / RECORDED_SPEC, write_yaml(spec.model_dump(mode="json")))
    except OSError as error:
        raise unwritable(folder, error) from error
