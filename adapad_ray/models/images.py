"""The format of the images that a model reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import transformers

from adapad_ray.errors import BadRequestError
from adapad_ray.models.reading import reading_model
from adapad_ray.models.source import read_config, resolve_for_planning
from adapad_ray.safe_json import read_object


@dataclass(frozen=True)
class ImageFormat:
    """Images are `[channels, size, size]`; a value of 0 to 1 is read as (value - mean) / deviation of its channel."""

    size: int
    channels: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def image_format(source: str) -> ImageFormat:
    """Return the format from a model's configuration and its `preprocessor_config.json`, if it has one.

    Mean and deviation default to 0.5, as in ViT and SigLIP.

    Raises:
        BadRequestError: the model does not read square images.
    """
    resolved = resolve_for_planning(source)
    with reading_model(source):
        config = read_config(resolved)
        file = transformers.utils.cached_file(
            resolved.path_or_name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False
        )
        settings = {} if file is None else read_object(Path(file), f"preprocessor_config.json of model {source!r}")
    vision = getattr(config, "vision_config", config)
    size, channels = getattr(vision, "image_size", None), getattr(vision, "num_channels", 3)
    if not isinstance(size, int):
        raise BadRequestError(f"model {source!r} has image_size {size}: an image task needs a model of square images")
    mean, deviation = (settings.get(f"image_{name}") or [0.5] * channels for name in ("mean", "std"))
    return ImageFormat(size, channels, tuple(mean), tuple(deviation))
