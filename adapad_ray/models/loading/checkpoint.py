"""The files of a pretrained model, as the driver found them, and where another node finds the same ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from safetensors import safe_open
from transformers.utils import cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from adapad_ray.errors import BadRequestError
from adapad_ray.models.checkpoint_files import INDEX, WEIGHTS, weight_files
from adapad_ray.models.loading.digest import files_digest
from adapad_ray.models.reading import reading_model
from adapad_ray.models.source import ModelSource, Pooling
from adapad_ray.safe_json import read_object


class AbsentCheckpointError(BadRequestError):
    """This node has not the files of a model."""


class HubModel(NamedTuple):
    """A model of the Hub at one commit."""

    name: str
    revision: str


class FileStamp(NamedTuple):
    """What tells a file of the same name apart without reading it."""

    name: str
    size: int
    modified: int
    """ns."""


@dataclass(frozen=True)
class Checkpoint:
    """The configuration and the safetensors files of a model."""

    source: str
    """The model, as the user named it."""
    folder: Path
    stamps: tuple[FileStamp, ...]
    """Of `config.json`, then of the files with weights."""
    hub: HubModel | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The paths of the files, `config.json` first."""
        return tuple(self.folder / stamp.name for stamp in self.stamps)

    @property
    def quantized(self) -> bool:
        """Whether the files hold quantised weights, as their configuration says."""
        return "quantization_config" in read_object(self.files[0], f"config.json of model {self.source!r}")

    def digest(self, pooling: Pooling) -> str:
        """sha256 over the pooling and the files."""
        return files_digest(pooling, self.files)

    def stored_dtypes(self) -> set[str]:
        """The floating-point dtypes of the stored weights, as safetensors names them: `F32`, `BF16`."""
        found = set()
        for path in self.files:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as weights:
                    found |= {weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        return {dtype for dtype in found if "F" in dtype}

    def on_this_node(self, pooling: Pooling, digest: str) -> Checkpoint:
        """Return the same files on the node of this process: at the same path, or from the Hub.

        Files that were changed at another time than the driver's are read once, to compare their digest.

        Raises:
            AbsentCheckpointError: there are none, or they are not the same.
        """
        differ = False
        for folder in self._folders():
            here = _stamped(self.source, folder, [stamp.name for stamp in self.stamps], self.hub)
            if here is not None and (here.stamps == self.stamps or here.digest(pooling) == digest):
                return here
            differ = differ or here is not None
        what = "are not those that the sweep was planned with" if differ else "are not on this node"
        raise AbsentCheckpointError(f"the files of model {self.source!r} {what}: {self.folder}")

    def _folders(self) -> Iterator[Path]:
        yield self.folder
        if self.hub is not None:
            try:
                yield download(*self.hub)
            except BadRequestError:
                return


def find_checkpoint(resolved: ModelSource, source: str) -> Checkpoint:
    """Return the files from which transformers would load a model, after downloading those of a Hub model.

    Args:
        source: the model, as the user named it.

    Raises:
        BadRequestError: they are not complete, or cannot be downloaded.
    """
    folder, hub = resolved.folder, None
    if folder is None:
        folder = download(resolved.path_or_name)
        hub = HubModel(resolved.path_or_name, folder.name)  # the Hub's cache names a snapshot by its commit
    names = ["config.json", *(path.name for path in weight_files(folder, source))]
    checkpoint = _stamped(source, folder, names, hub)
    assert checkpoint is not None
    return checkpoint


def download(name: str, revision: str | None = None) -> Path:
    """Download configuration and weights of a Hub model unless they are in the Hub's cache; return their folder.

    Raises:
        BadRequestError: the Hub cannot be reached or has no such model.
    """
    with reading_model(name):
        config = Path(str(cached_file(name, "config.json", revision=revision)))
        folder = config.parent
        named = read_object(config, f"config.json of model {name!r}").get("transformers_weights")
        for file in [str(named)] if named else [WEIGHTS, INDEX]:
            found = cached_file(name, file, revision=folder.name, _raise_exceptions_for_missing_entries=False)
            if found is not None:
                if file.endswith(".index.json"):
                    get_checkpoint_shard_files(name, found, revision=folder.name)
                break
    return folder


def _stamped(source: str, folder: Path, names: list[str], hub: HubModel | None) -> Checkpoint | None:
    """The files of these names in a folder; None where one cannot be read."""
    try:
        stats = {name: (folder / name).stat() for name in names}
    except OSError:
        return None
    stamps = tuple(FileStamp(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items())
    return Checkpoint(source, folder, stamps, hub)
