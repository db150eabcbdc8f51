"""Which files of a model folder decide what is loaded, and which must not stand beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from adapad_ray.errors import BadRequestError
from adapad_ray.safe_json import read_object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_POINTER = b"version https://git-lfs.github.com/"
"""Beginning of the small file that Git LFS leaves in the place of one that it has not fetched."""
_LAYER = re.compile(r"\.(\d+)(?=\.)")
"""A layer's number in a parameter's name."""
_LONGEST_POINTER = 1024
"""Bytes, by the specification of Git LFS."""


def weight_files(folder: Path, source: str) -> list[Path]:
    """Return the files that transformers reads weights from: one, or an index and its shards.

    The configuration may name one of the two; otherwise a single file goes before an index.

    Args:
        source: the model as the user named it, for messages.

    Raises:
        BadRequestError: there are none, or the index is damaged or names a file that is missing.
    """
    named = read_object(folder / "config.json", f"config.json of model {source!r}").get("transformers_weights")
    file = str(named or (INDEX if not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file() else WEIGHTS))
    _require(folder, file, "the configuration" if named else None, source)
    if not file.endswith(".index.json"):
        return [folder / file]
    shards = read_object(folder / file, f"{file} of model {source!r}").get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise BadRequestError(f"{file} of model {source!r} has no weight_map of file names")
    names = sorted({str(name) for name in shards.values()})
    for name in names:
        _require(folder, name, file, source)
    return [folder / file, *(folder / name for name in names)]


def _require(folder: Path, name: str, named_by: str | None, source: str) -> None:
    if Path(name).name == name and (folder / name).is_file():
        return
    if named_by is not None:
        raise BadRequestError(f"model folder {source!r} lacks {name!r}, which {named_by} names: copy it there")
    raise BadRequestError(
        f"model folder {source!r} has no {name}: pickled weights are not loaded, convert them with save_pretrained"
    )


def unloadable(folder: Path, source: str) -> tuple[str, ...]:
    """Return, as a warning, why the weights of a model folder cannot be read; none where they can."""
    try:
        weight_files(folder, source)
    except BadRequestError as error:
        return (f"{error}; without them it can be planned, not trained",)
    return ()


def missing_layers(source: str, model: nn.Module, left_over: Iterable[str]) -> tuple[str, ...]:
    """Return a warning for each stack of layers of which the checkpoint has more than its configuration says.

    Args:
        source: the model as the user named it.
        left_over: names of the parameters of the checkpoint that the model has no place for.
    """
    built, stored = _layers(name for name, _ in model.named_parameters()), _layers(left_over)
    return tuple(
        f"the weights of model {source!r} have {stored[stack]} layers in {stack!r}, its config.json says "
        f"{built[stack]}: those after it are left out"
        for stack in sorted(stored)
        if stored[stack] > built.get(stack, stored[stack])
    )


def _layers(parameters: Iterable[str]) -> dict[str, int]:
    """Name of a stack of numbered layers → how many it has, by the names of their parameters."""
    layers: dict[str, int] = {}
    for name in parameters:
        for found in _LAYER.finditer(name):
            stack = name[: found.start()].rpartition(".")[2]
            layers[stack] = max(layers.get(stack, 0), int(found[1]) + 1)
    return layers


def reject_pointers(folder: Path, source: str) -> None:
    """Check that Git LFS has fetched the files of a folder.

    Raises:
        BadRequestError: it has left a pointer.
    """
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stat().st_size < _LONGEST_POINTER and path.read_bytes().startswith(_POINTER):
            raise BadRequestError(
                f"{path.name} of model folder {source!r} is a pointer of Git LFS: run `git lfs pull` there"
            )


def reject_adapter(folder: Path, source: str) -> None:
    """Check that a folder holds no adapter, which transformers would load on top of the model.

    Raises:
        BadRequestError: it holds one, alone or beside a model.
    """
    path = folder / ADAPTER
    if not path.is_file():
        return
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        raise BadRequestError(beside_weights(f"model folder {source!r}"))
    raise BadRequestError(only_an_adapter(f"model folder {source!r}", path))


def beside_weights(model: str) -> str:
    """Return the reason why a model with an adapter beside its weights is rejected."""
    return (
        f"{model} holds {ADAPTER} beside the weights of a model: delete the adapter's files if it is merged into the "
        "weights already, else merge it first (peft's merge_and_unload) and save the result without them"
    )


def only_an_adapter(model: str, config: Path) -> str:
    """Return the reason why an adapter without a model is rejected; it names the model that the adapter is for."""
    try:
        base = read_object(config, ADAPTER).get("base_model_name_or_path")
    except BadRequestError:
        base = None
    return (
        f"{model} holds an adapter only ({ADAPTER}) and no model: pass its base model"
        + (f", {base!r}," if base else "")
        + " or merge the two (peft's merge_and_unload) and pass the result"
    )
