"""Packs a sweep as a job of a remote cluster: what is uploaded, and what must be on shared storage.

The job's folder is temporary and on one node, so it holds only copies: the package, the sweep's file and small data
files. Results, and files that every node reads, must be below a folder that the user declares with `--shared`.
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

from adapad_ray.errors import BadRequestError
from adapad_ray.storage import NODE_LOCAL, check_url, is_url
from adapad_ray.submit import entrypoint
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.sweep.spec_file import load_spec
from adapad_ray.tasks import TYPES

LARGEST_UPLOAD = 100 * 2**20
"""Most bytes that are uploaded with a job (a project default): the cluster's head keeps them in memory."""
_OLDEST_PYTHON = (3, 11)
_DISTRIBUTION = "adapad-ray"
ENTRYPOINT = "entrypoint.py"
"""Name of the job's entry point in its folder."""


@dataclass(frozen=True)
class Request:
    """A sweep to run on a remote cluster."""

    path: Path
    overrides: tuple[str, ...] = ()
    shared: tuple[Path, ...] = ()
    """Folders that every node has under the same path."""


@dataclass(frozen=True)
class PackedSweep:
    """A sweep that is ready to be uploaded."""

    name: str
    """Id of the job: the sweep's name and a random part, unique on the cluster."""
    folder: Path
    """The folder to upload."""
    entrypoint: str
    """Command line, to be run in the folder."""
    environment: Mapping[str, str]
    metadata: Mapping[str, str]


@contextmanager
def packed(request: Request) -> Iterator[PackedSweep]:
    """Yields the sweep, packed into a temporary folder.

    Raises:
        BadRequestError: the file is invalid, results would be lost with the job, or the cluster cannot read its inputs.
    """
    spec = load_spec(request.path, request.overrides)
    environment = _tracking_environment(spec, request.shared)
    with tempfile.TemporaryDirectory(prefix="adapad-submit-") as folder:
        arguments = _pack(request, spec, Path(folder))
        yield PackedSweep(
            name=f"adapad-{spec.name}-{secrets.token_hex(4)}",
            folder=Path(folder),
            entrypoint=shlex.join(["python", ENTRYPOINT, *arguments]),
            environment=environment,
            metadata={"job_name": spec.name, "adapad.storage": spec.storage},
        )


def _pack(request: Request, spec: SweepSpec, folder: Path) -> list[str]:
    """Fills the job's folder and returns the arguments of `adapad sweep`."""
    _check_storage(spec, request.shared)
    _check_model(spec, request.shared)
    data = _data_files(spec, request.shared)
    uploads = {key: path for key, path in data.items() if not _is_shared(path, request.shared)}
    _check_size([request.path, *uploads.values()])
    package = Path(__file__).parents[1]
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(entrypoint.__file__, folder / ENTRYPOINT)
    (folder / entrypoint.REQUIREMENTS).write_text(json.dumps(_requirements()), encoding="utf-8")
    shutil.copy(request.path, folder / request.path.name)
    for key, path in uploads.items():
        # The folder's name is kept, because a task whose file is named train is called after its folder.
        data[key] = Path("data", key, path.parent.name or "root", path.name)
        (folder / data[key]).parent.mkdir(parents=True)
        shutil.copy(path, folder / data[key])
    moved = [f"{key}={json.dumps(str(path), ensure_ascii=False)}" for key, path in data.items()]  # quoted for YAML
    return [request.path.name, *request.overrides, *moved, *(["data_dir=null"] if moved and spec.data_dir else [])]


def _check_size(files: Sequence[Path]) -> None:
    sizes = {file: file.stat().st_size for file in files}
    if sum(sizes.values()) > LARGEST_UPLOAD:
        raise BadRequestError(
            f"{sum(sizes.values()):,} bytes of data would be uploaded with the job, more than {LARGEST_UPLOAD:,}: put "
            f"large files such as {max(sizes, key=lambda file: sizes[file])} below a folder that all nodes share, and "
            "pass that folder with --shared"
        )


def _check_storage(spec: SweepSpec, shared: Sequence[Path]) -> None:
    scheme = ""
    if is_url(spec.storage):
        check_url(spec.storage)
        scheme = urlsplit(spec.storage).scheme
    if not scheme or scheme in NODE_LOCAL:
        folder = Path(spec.storage.removeprefix(f"{scheme}://"))
        if not folder.is_absolute():
            raise BadRequestError(
                f"storage {spec.storage!r} would be deleted with the job's temporary folder: pass the URL of a store, "
                "as in storage=s3://bucket/runs, or a folder that every node has under the same path, as in "
                "storage=/mnt/shared/runs --shared /mnt/shared"
            )
        _check_shared(f"storage {spec.storage!r}", folder, shared)


def _check_model(spec: SweepSpec, shared: Sequence[Path]) -> None:
    model = Path(os.path.expanduser(spec.model))
    if model.is_absolute() or model.is_dir():
        _check_shared(f"model folder {spec.model!r}", model.absolute(), shared)


def _check_shared(what: str, path: Path, shared: Sequence[Path]) -> None:
    if not _is_shared(path, shared):
        raise BadRequestError(
            f"{what} may exist on one node only: put it below a folder that every node has under the same path, and "
            "pass that folder with --shared"
        )


def _is_shared(path: Path, shared: Sequence[Path]) -> bool:
    normalized = Path(os.path.normpath(path))
    return any(normalized.is_relative_to(folder) for folder in shared)


def _data_files(spec: SweepSpec, shared: Sequence[Path]) -> dict[str, Path]:
    """Data files that the sweep names, by key of its file."""
    if isinstance(spec.task, str):
        if spec.data_dir is not None:
            _check_shared(f"data_dir {spec.data_dir!r}", Path(os.path.expanduser(spec.data_dir)).absolute(), shared)
        return {}
    task_type = TYPES[spec.task.type]
    paths = {}
    for file in task_type.files(spec.task.inside(spec.data_dir)):
        path = Path(os.path.expanduser(file.path)).absolute()
        if file.required and task_type.rows_name_files:
            _check_shared(f"{file.key} {file.path!r}", path, shared)
        available = _is_shared(path, shared) or path.is_file()
        if file.required and not available:
            raise BadRequestError(
                f"{file.key} {file.path!r} does not exist on this machine: pass the path of a file, or its folder with "
                "--shared if every node has it"
            )
        if available:
            paths[file.key] = path
    return paths


def _tracking_environment(spec: SweepSpec, shared: Sequence[Path]) -> Mapping[str, str]:
    """Environment variables for the job: this machine's MLFLOW_TRACKING_URI, if set."""
    from_environment = os.environ.get("MLFLOW_TRACKING_URI")
    uri = from_environment or spec.tracking
    parts = urlsplit(uri)
    if parts.password is not None:
        raise BadRequestError(
            "the address of the tracking server holds a password, which everyone with access to the job could read: "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment of the nodes instead"
        )
    if parts.scheme in ("sqlite", "file", ""):
        path = Path(uri.removeprefix("sqlite:///").removeprefix("file://"))
        if not path.is_absolute() or not _is_shared(path, shared):
            raise BadRequestError(
                f"tracking {uri!r} would be deleted with the job's temporary folder, or exist on one node only: pass "
                "tracking=http://<server>:5000, or a sqlite:////… path below a folder that is passed with --shared"
            )
    return {} if from_environment is None else {"MLFLOW_TRACKING_URI": from_environment}


def _requirements() -> dict[str, object]:
    """What the package needs to run, in the form that the entry point reads."""
    try:
        declared = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        declared = []
    return {
        "python": _OLDEST_PYTHON,
        "submitted_from": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "packages": [text for text in declared if "extra ==" not in text],
    }
