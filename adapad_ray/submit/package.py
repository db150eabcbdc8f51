"""A sweep as a job of a cluster elsewhere: what must travel, what must lie on shared storage, and the job itself.

The job's folder is temporary and on one node. So it holds copies only: the package, the sweep's file and small data
files. What is to last, or to be seen by every node, lies below a folder that the caller declares as shared.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import adapad_ray
from adapad_ray.errors import BadRequestError
from adapad_ray.storage import OF_A_NODE, check_url, is_url
from adapad_ray.submit import entrypoint
from adapad_ray.sweep.spec import SweepSpec, load_spec
from adapad_ray.tasks import TYPES

LARGEST_UPLOAD = 100 * 2**20
"""Bytes that travel with a job. Ours: the cluster's head keeps them in its memory."""
_OLDEST_PYTHON = (3, 11)
_DISTRIBUTION = "adapad-ray"


@dataclass(frozen=True)
class Request:
    """A sweep that is to run elsewhere."""

    path: Path
    overrides: tuple[str, ...] = ()
    shared: tuple[Path, ...] = ()
    """Folders that every node has under the same path."""


@dataclass(frozen=True)
class PackedSweep:
    """A sweep that is ready to travel."""

    name: str
    """Of the job: the sweep's, and something that no other job has."""
    folder: Path
    entrypoint: str
    environment: Mapping[str, str]
    metadata: Mapping[str, str]


@contextmanager
def packed(request: Request) -> Iterator[PackedSweep]:
    """The sweep in a temporary folder, while the block runs.

    Raises:
        BadRequestError: the file is wrong, or something in it would vanish or be out of the cluster's reach.
    """
    spec = load_spec(request.path, request.overrides)
    environment = _tracking(spec, request.shared)
    with tempfile.TemporaryDirectory(prefix="adapad-submit-") as folder:
        arguments = _pack(request, spec, Path(folder))
        yield PackedSweep(
            name=f"adapad-{spec.name}-{secrets.token_hex(4)}",
            folder=Path(folder),
            entrypoint=shlex.join(["python", "launch.py", *arguments]),
            environment=environment,
            metadata={"job_name": spec.name, "adapad.storage": spec.storage},
        )


def _pack(request: Request, spec: SweepSpec, folder: Path) -> list[str]:
    """Fills the job's folder and returns the arguments of `adapad sweep` in it."""
    _check_places(spec, request.shared)
    data = _data_files(spec, request.shared)
    travelling = {key: path for key, path in data.items() if not _is_shared(path, request.shared)}
    _check_size([request.path, *travelling.values()])
    package = Path(adapad_ray.__file__).parent
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(entrypoint.__file__, folder / "launch.py")
    (folder / "adapad-launch.json").write_text(json.dumps(_needed()), encoding="utf-8")
    shutil.copy(request.path, folder / request.path.name)
    for key, path in travelling.items():
        # With the name of its folder, after which a task is called whose file is named train.
        data[key] = Path("data", key, path.parent.name or "root", path.name)
        (folder / data[key]).parent.mkdir(parents=True)
        shutil.copy(path, folder / data[key])
    moved = [f"{key}={path}" for key, path in data.items()]
    return [request.path.name, *request.overrides, *moved, *(["data_dir=null"] if moved and spec.data_dir else [])]


def _check_size(files: Sequence[Path]) -> None:
    sizes = {file: file.stat().st_size for file in files}
    if sum(sizes.values()) > LARGEST_UPLOAD:
        raise BadRequestError(
            f"{sum(sizes.values()):,} bytes of data would travel with the job, more than {LARGEST_UPLOAD:,}: put "
            f"{max(sizes, key=lambda file: sizes[file])} and its like below a folder that all nodes share, and declare "
            "that with --shared"
        )


def _check_places(spec: SweepSpec, shared: Sequence[Path]) -> None:
    scheme = ""
    if is_url(spec.storage):
        check_url(spec.storage)
        scheme = urlsplit(spec.storage).scheme
    if not scheme or scheme in OF_A_NODE:
        folder = Path(spec.storage.removeprefix(f"{scheme}://"))
        if not folder.is_absolute():
            raise BadRequestError(
                f"storage {spec.storage!r} would vanish with the job's temporary folder: pass a URL of a store, such "
                "as storage=s3://bucket/runs, or storage=/mnt/shared/runs, say, and --shared /mnt/shared, a folder "
                "that every node has under this path"
            )
        _check_shared(f"storage {spec.storage!r}", folder, shared)
    model = Path(spec.model).expanduser()
    if model.is_absolute() or model.is_dir():
        _check_shared(f"model folder {spec.model!r}", model.absolute(), shared)


def _check_shared(what: str, path: Path, shared: Sequence[Path]) -> None:
    if not _is_shared(path, shared):
        raise BadRequestError(
            f"{what} may be on one node alone: put it below a folder that every node has under the same path, and "
            "declare that with --shared"
        )


def _is_shared(path: Path, shared: Sequence[Path]) -> bool:
    plain = Path(os.path.normpath(path))
    return any(plain.is_relative_to(folder) for folder in shared)


def _data_files(spec: SweepSpec, shared: Sequence[Path]) -> dict[str, Path]:
    """Local data files by the key of the sweep's file that names them."""
    if isinstance(spec.task, str):
        if spec.data_dir is not None:
            _check_shared(f"data_dir {spec.data_dir!r}", Path(spec.data_dir).expanduser().absolute(), shared)
        return {}
    kind = TYPES[spec.task.type]
    files = kind.files(spec.task.inside(spec.data_dir))
    paths = {file.key: Path(file.path).expanduser().absolute() for file in files}
    for file in files:
        if file.required and kind.rows_name_files:
            _check_shared(f"{file.key} {file.path!r}", paths[file.key], shared)
        if file.required and not _is_shared(paths[file.key], shared) and not paths[file.key].is_file():
            raise BadRequestError(
                f"{file.key} {file.path!r} does not exist here, and so cannot travel: pass the path of a file, or "
                "declare its folder with --shared if every node has it"
            )
    return {key: path for key, path in paths.items() if _is_shared(path, shared) or path.is_file()}


def _tracking(spec: SweepSpec, shared: Sequence[Path]) -> Mapping[str, str]:
    """The environment that carries the tracking store, where it does not stand in the file."""
    ours = os.environ.get("MLFLOW_TRACKING_URI")
    uri = ours or spec.tracking
    parts = urlsplit(uri)
    if parts.password is not None:
        raise BadRequestError(
            "the address of the tracking server holds a password, which anyone who sees the job would read: set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment of the cluster's nodes instead"
        )
    if parts.scheme in ("sqlite", "file", ""):
        path = Path(uri.removeprefix("sqlite:///").removeprefix("file://"))
        if not path.is_absolute() or not _is_shared(path, shared):
            raise BadRequestError(
                f"tracking {uri!r} would vanish with the job's temporary folder, or stay on one node: pass "
                "tracking=http://<server>:5000, or a sqlite:////… path below a folder declared with --shared"
            )
    return {} if ours is None else {"MLFLOW_TRACKING_URI": ours}


def _needed() -> dict[str, object]:
    """What the package needs to run, as `launch.py` reads it."""
    try:
        declared = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        declared = []
    return {
        "python": _OLDEST_PYTHON,
        "submitted_from": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "requirements": [text for text in declared if "extra ==" not in text],
    }
