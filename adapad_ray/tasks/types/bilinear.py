"""The linear setting of deflation as a task: Y = W X + noise with a chosen spectrum (2605.10741)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adapad_ray.tasks.base import TaskData, batches_in_order
from adapad_ray.tasks.source import SPLITS, BilinearSource
from adapad_ray.tasks.true_components import TrueComponents

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DenseSplit:
    """Examples that are vectors: columns of X and Y. Each counts as one token."""

    inputs: np.ndarray
    """float64 `[examples, d]`."""
    labels: np.ndarray
    """float64 `[examples, m]`."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> np.ndarray:
        """Ones, int64 `[examples]`."""
        return np.ones(len(self), dtype=np.int64)

    def batch(self, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
        """`inputs_embeds` `[batch, d]` and `labels` `[batch, m]`; nothing is padded."""
        import torch

        rows = np.asarray(indices)
        return {"inputs_embeds": torch.from_numpy(self.inputs[rows]), "labels": torch.from_numpy(self.labels[rows])}

    @staticmethod
    def size_of(batch: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Examples of a batch, twice: there is no padding."""
        count = len(batch["inputs_embeds"])
        return count, count

    def evaluation_batches(self, batch_size: int) -> list[np.ndarray]:
        """Index arrays that cover the split once, in order."""
        return batches_in_order(len(self), batch_size)


def make_bilinear(source: BilinearSource) -> TaskData:
    """Draws factors, inputs and noise from the source's seed; all splits have the same factors.

    The loss is ½‖y - W' x‖² per example, so a full batch has the mean 1/(2n) ‖Y - W'X‖_F². The paper's objective has no
    1/n: that scales the learning rate alone, and with rows of X of length √n the two are the same function of W'.
    """
    draw = np.random.default_rng(source.seed)
    sigma = np.array(source.spectrum)
    left, right = (
        np.linalg.qr(draw.standard_normal((size, len(sigma))))[0] for size in (source.out_features, source.in_features)
    )
    weight = (left * sigma) @ right.T  # [m, d]
    splits = {name: _split(source, weight, draw) for name in SPLITS}
    train = splits["train"]
    return TaskData(
        name="bilinear",
        label_names=(),
        metric="r2",
        splits=splits,
        digest=_digest(splits),
        loss="half_squared_error",
        type="regression",
        components=TrueComponents.of(train.inputs.T, train.labels.T),
    )


def _split(source: BilinearSource, weight: np.ndarray, draw: np.random.Generator) -> DenseSplit:
    x = draw.standard_normal((source.examples, source.in_features))
    if source.inputs == "orthonormal":
        x = np.linalg.qr(x)[0] * np.sqrt(source.examples)
    noise = source.noise * draw.standard_normal((source.examples, source.out_features))
    return DenseSplit(x, x @ weight.T + noise)


def _digest(splits: Mapping[str, DenseSplit]) -> str:
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(f"{name} {split.inputs.shape} {split.labels.shape}\n".encode())
        digest.update(np.ascontiguousarray(split.inputs).tobytes())
        digest.update(np.ascontiguousarray(split.labels).tobytes())
    return digest.hexdigest()
