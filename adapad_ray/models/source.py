"""Where a model comes from: a packaged name, a local folder or a name on the Hub. No weights are read here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import transformers
from transformers.quantizers import AutoHfQuantizer

from adapad_ray.assets import ASSETS, fetch, find_asset, require_hub
from adapad_ray.errors import BadRequestError, UnreachableError
from adapad_ray.models.built_models import TINY_VIT, TINY_VIT_DESCRIPTION, converted, tiny_vit
from adapad_ray.models.checkpoint_files import (
    ADAPTER,
    beside_weights,
    only_an_adapter,
    reject_adapter,
    reject_pointers,
    unloadable,
)
from adapad_ray.models.configs import find_config, list_configs
from adapad_ray.models.reading import accepted_sources, quiet_transformers, reading_model
from adapad_ray.models.task_models import LINEAR
from adapad_ray.safe_json import read_object
from adapad_ray.spelling import closest

Pooling = Literal["mean", "own"]
"""How a classifier of texts pools token states: their mean, or what the architecture itself does."""


@dataclass(frozen=True)
class ModelSource:
    """A model that has been found but not loaded."""

    path_or_name: str
    """A local folder with `config.json`, or a name on the Hub."""
    pooling: Pooling
    """The declared pooling: `mean` for sentence encoders, `own` for all others."""

    @property
    def folder(self) -> Path | None:
        """The local folder; None for a model on the Hub."""
        return Path(self.path_or_name) if os.path.isdir(self.path_or_name) else None


def list_models() -> dict[str, str]:
    """Return one line about each packaged model and each Hub model that can be planned offline, by name."""
    packaged = {asset.name: asset.description for asset in ASSETS if asset.kind == "model"}
    packaged |= {TINY_VIT: TINY_VIT_DESCRIPTION}
    packaged |= {LINEAR: "one linear layer of zeros, as wide as the task: the model of the linear theory"}
    return packaged | dict.fromkeys(list_configs(), "from the Hub; its sizes are kept for `adapad plan`")


def resolve_model(source: str) -> ModelSource:
    """Find a packaged model, a local folder or a Hub name.

    Raises:
        BadRequestError: the folder holds no model or an adapter, the name is malformed, or the Hub cannot be reached.
    """
    if source == TINY_VIT:
        with quiet_transformers():
            return ModelSource(str(tiny_vit()), pooling="own")
    if asset := find_asset("model", source):
        with quiet_transformers():
            folder = converted(fetch(asset))
        return ModelSource(str(folder), pooling=_declared_pooling(folder))
    path = Path(os.path.expanduser(source))
    if os.path.isdir(path):  # Path.is_dir raises for a name that is too long for a file
        reject_adapter(path, source)
        if not (path / "config.json").is_file():
            raise BadRequestError(f"model folder {source!r} has no config.json: pass what save_pretrained wrote")
        reject_pointers(path, source)
        read_object(path / "config.json", f"config.json of model {source!r}")
        return ModelSource(str(path.resolve()), pooling=_declared_pooling(path))
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) or source.startswith("."):
        raise BadRequestError(f"model folder {source!r} does not exist: pass {accepted_sources()}")
    try:
        require_hub(f"model {source!r}")
    except UnreachableError as error:
        near = None if "/" in source else closest(source, list_models())
        raise UnreachableError(f"{error}" + (f"; did you mean {near}?" if near else "")) from error
    _reject_adapter_on_hub(source)
    return ModelSource(source, pooling=_declared_pooling_on_hub(source))


def resolve_for_planning(source: str) -> ModelSource:
    """Find a model whose configuration is enough: `configs` stand in for the Hub where it cannot be reached.

    Raises:
        BadRequestError: as `resolve_model`, for a model that has no entry in `configs`.
    """
    kept = find_config(source)
    if kept is None:
        return resolve_model(source)
    try:
        resolved = resolve_model(source)
        with reading_model(source):
            read_config(resolved)
    except BadRequestError:
        return ModelSource(str(kept), pooling="own")
    return resolved


def keeps_sizes(source: str) -> bool:
    """Return whether `resolve_for_planning` falls back on the sizes in `configs`."""
    kept = find_config(source)
    return kept is not None and Path(resolve_for_planning(source).path_or_name) == kept


def unloadable_weights(source: str) -> tuple[str, ...]:
    """Return, as a warning, why a user's model folder can be planned only; none for other models."""
    folder = Path(os.path.expanduser(source))
    return unloadable(folder, source) if (folder / "config.json").is_file() else ()


def read_config(source: ModelSource) -> Any:
    """Return the configuration with the key-value cache off, because a classifier reads every token once.

    Raises:
        ImportError: the model is quantised, and a package that reads it is missing.
        ValueError: the model is quantised in a way that cannot be read here.
    """
    config: Any = transformers.AutoConfig.from_pretrained(source.path_or_name, trust_remote_code=False)
    _check_quantisation(config)
    for part in (config, config.get_text_config()):
        part.use_cache = False
    return config


def _check_quantisation(config: Any) -> None:
    """Check what transformers checks when it reads quantised weights, so that a plan meets it too."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return
    try:
        AutoHfQuantizer.from_config(settings, pre_quantized=True).validate_environment()
    except ImportError as error:
        raise ImportError(f"its weights are quantised; {error}; or pass the model without quantisation") from error
    except (RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"its weights are quantised: {error}; pass the model without quantisation") from error


def _declared_pooling(folder: Path) -> Pooling:
    """Return `mean` for a folder that sentence-transformers wrote with mean pooling, else `own`."""
    if not (folder / "modules.json").is_file():
        return "own"
    return _read_pooling(folder / "1_Pooling" / "config.json")


def _reject_adapter_on_hub(name: str) -> None:
    """As `reject_adapter`, for a repository."""
    with reading_model(name):
        files = [
            transformers.utils.cached_file(name, file, _raise_exceptions_for_missing_entries=False)
            for file in (ADAPTER, "config.json")
        ]
    if files[0] is not None:
        model = f"model {name!r}"
        raise BadRequestError(only_an_adapter(model, Path(files[0])) if files[1] is None else beside_weights(model))


def _declared_pooling_on_hub(name: str) -> Pooling:
    with reading_model(name):
        marker = transformers.utils.cached_file(name, "modules.json", _raise_exceptions_for_missing_entries=False)
        if marker is None:
            return "own"
        settings = transformers.utils.cached_file(
            name, "1_Pooling/config.json", _raise_exceptions_for_missing_entries=False
        )
    return "own" if settings is None else _read_pooling(Path(settings))


def _read_pooling(settings: Path) -> Pooling:
    if not settings.is_file():
        return "own"
    return "mean" if read_object(settings, str(settings)).get("pooling_mode_mean_tokens") is True else "own"
