"""Image classification: images in, one of several classes out; scikit-learn's digits by name."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.columns import classes_as_text, number_classes, require_columns, with_group
from adapad_ray.tasks.data.tables import Columns
from adapad_ray.tasks.encoding.assumed import AssumedSplit, batches_in_order
from adapad_ray.tasks.logits import evaluate_logits
from adapad_ray.tasks.metrics import ClassMetricName, check_classes
from adapad_ray.tasks.rows import RowTask
from adapad_ray.tasks.source import DataSource
from adapad_ray.tasks.task_data import Evaluated, Passes, RawTask, Split, TaskData

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as Picture


class ImageSource(DataSource):
    """Images and classes."""

    type: Literal["image"]
    image: str = "image"
    """Column with the path of an image, relative to the table's folder, or with the image as the Hub stores it."""
    label: str = "label"
    metric: ClassMetricName = "accuracy"

    def columns(self) -> Columns:
        """Image, label and group."""
        return {"image": self.image, "label": self.label} | super().columns()


@dataclass(frozen=True)
class PixelSplit:
    """Images of one size; each counts as one token."""

    pixels: np.ndarray
    """uint8 `[images, channels, size, size]`."""
    labels: np.ndarray
    """int64 `[images]`."""
    mean: tuple[float, ...]
    """Of every channel, for values from 0 to 1; subtracted when a batch is made."""
    deviation: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Ones, int64 `[images]`."""
        return np.ones(len(self), dtype=np.int64)

    def batch(self, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
        """`pixel_values` float32 `[batch, channels, size, size]` and `labels` `[batch]`; nothing is padded."""
        import torch

        rows = np.asarray(indices)
        mean, deviation = (np.array(v, dtype=np.float32)[:, None, None] for v in (self.mean, self.deviation))
        values = (self.pixels[rows].astype(np.float32) / 255 - mean) / deviation
        return {"pixel_values": torch.from_numpy(values), "labels": torch.from_numpy(self.labels[rows])}

    @staticmethod
    def size_of(batch: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Images of a batch, twice."""
        count = len(batch["pixel_values"])
        return count, count

    def evaluation_batches(self, batch_size: int) -> list[np.ndarray]:
        """Index arrays that cover the split once, in order."""
        return batches_in_order(len(self), batch_size)


class Image(RowTask[ImageSource]):
    """Images and classes; every image is resized to the model's size by bicubic interpolation."""

    name = "image"
    auto_class: ClassVar[str | None] = "AutoModelForImageClassification"
    reads_texts = False
    rows_name_files = True
    Source = ImageSource

    def reader(self, model: str) -> Any:
        """The format of the model's images."""
        from adapad_ray.models import image_format

        return image_format(model)

    def planning_reader(self, model: str) -> tuple[Any, bool]:
        """The same: the model's configuration is enough."""
        return self.reader(model), True

    def select(self, table: pd.DataFrame, source: ImageSource, split: str) -> pd.DataFrame:
        """`image` is a path or the content; `text` is the file's name, or a hash of the content."""
        require_columns(table, source.columns(), split)
        base = Path(os.path.expanduser(getattr(source, split, None) or ".")).parent
        images = [base / value if isinstance(value, str) else value for value in table[source.image]]
        labels = classes_as_text(table[source.label], source.label, split)
        frame = pd.DataFrame({"text": [_name(image) for image in images], "image": images, "label": labels})
        return with_group(frame, table, source.group, split)

    def number_labels(
        self, splits: Mapping[str, pd.DataFrame], source: ImageSource, task: str
    ) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
        """Numbers of the classes, which are those of the training split."""
        numbered, class_names = number_classes(splits, task, source.label)
        check_classes(source.metric, len(class_names), task)
        return numbered, class_names

    def encode_split(self, raw: RawTask, frame: pd.DataFrame, split: str, reader: Any, max_length: int) -> Split:
        """Images of the model's size and channels."""
        pixels = np.stack([_pixels(image, split, reader.size, reader.channels) for image in frame["image"]])
        return PixelSplit(pixels, frame["label"].to_numpy(dtype=np.int64), reader.mean, reader.deviation)

    def evaluate(self, data: TaskData, passes: Passes, splits: list[str]) -> dict[str, Evaluated]:
        """Logits `[items, classes]`."""
        return evaluate_logits(data, passes, splits)

    def assume_split(self, source: ImageSource, count: int, max_length: int, reader: Any) -> AssumedSplit:
        """Black images."""

        def make(size: int) -> dict[str, np.ndarray]:
            shape = (size, reader.channels, reader.size, reader.size)
            return {"pixel_values": np.zeros(shape, dtype=np.float32), "labels": np.zeros(size, dtype=np.int64)}

        return AssumedSplit(count, 1, make)


def _name(image: Any) -> str:
    if isinstance(image, Path):
        return image.name
    content = image if isinstance(image, np.ndarray) else image["bytes"]
    return hashlib.sha256(content.tobytes() if isinstance(content, np.ndarray) else content).hexdigest()


def _pixels(image: Any, split: str, size: int, channels: int) -> np.ndarray:
    """uint8 `[channels, size, size]`."""
    from PIL import Image as pillow

    picture = _open(image, split).convert("L" if channels == 1 else "RGB")
    if picture.size != (size, size):
        picture = picture.resize((size, size), pillow.Resampling.BICUBIC)
    values = np.asarray(picture)
    return values[None] if channels == 1 else values.transpose(2, 0, 1)


def _open(image: Any, split: str) -> Picture:
    from PIL import Image as pillow

    if isinstance(image, np.ndarray):
        return pillow.fromarray(image)
    source = image if isinstance(image, Path) else io.BytesIO(image["bytes"])
    try:
        return pillow.open(source)
    except OSError as error:
        raise BadRequestError(
            f"picture {image if isinstance(image, Path) else '<bytes>'} of the {split} data cannot be read: {error}"
        ) from error
