"""The linear setting of deflation: Y = W X + noise with a chosen spectrum (2605.10741), for `model: linear`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.base import TaskType
from adapad_ray.tasks.data.splits import SPLITS
from adapad_ray.tasks.encoding.assumed import batches_in_order
from adapad_ray.tasks.logits import evaluate_logits
from adapad_ray.tasks.losses import half_squared_error
from adapad_ray.tasks.source import Source
from adapad_ray.tasks.split_sizes import SplitSize
from adapad_ray.tasks.task_data import DataLimits, Evaluated, Passes, RawTask, TaskData, digest_of
from adapad_ray.tasks.true_components import TrueComponents

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adapad_ray.models import BackboneRecipe

_MOST_ENTRIES = 2 * 10**8


class BilinearSource(Source):
    """Sizes, spectrum and noise of Y = W X + noise, drawn from a seed.

    W = Σ σ_k u_k v_kᵀ has a chosen spectrum and random orthonormal u_k, v_k, so the components that deflation should
    find are known. Sizes and spectrum are project defaults.
    """

    type: Literal["bilinear"]
    in_features: int = Field(default=32, ge=1, le=10**5)
    """d, rows of X."""
    out_features: int = Field(default=24, ge=1, le=10**5)
    """m, rows of Y."""
    examples: int = Field(default=256, ge=1, le=10**6)
    """n, columns of X in each of the three splits."""
    spectrum: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1.0, 0.8, 0.6, 0.4, 0.2), min_length=1)
    """Singular values of W, strictly falling: convergence slows down as the gaps between them shrink."""
    inputs: Literal["orthonormal", "gaussian"] = "orthonormal"
    """Rows of X: orthogonal and of length √n, or independent standard normal numbers."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of the normal noise on every entry of Y, in every split."""
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _components_are_distinct(self) -> BilinearSource:
        entries = max(self.examples, self.in_features, self.out_features) * (self.in_features + self.out_features)
        if entries > _MOST_ENTRIES:
            raise ValueError(f"its matrices would have {entries:,} entries, more than {_MOST_ENTRIES:,}: lower a size")
        widest = min(self.in_features, self.out_features)
        if len(self.spectrum) > widest:
            raise ValueError(f"spectrum has {len(self.spectrum)} values where the features allow {widest}")
        if any(low >= high for high, low in zip(self.spectrum, self.spectrum[1:], strict=False)):
            raise ValueError(f"spectrum {list(self.spectrum)} must fall strictly: equal values have no order")
        if self.examples < self.in_features:
            raise ValueError(f"examples {self.examples} must not be below in_features {self.in_features}")
        return self


@dataclass(frozen=True)
class DenseSplit:
    """Examples that are vectors, columns of X and Y; each counts as one token."""

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


class Bilinear(TaskType[BilinearSource]):
    """Vectors and vectors; the data are drawn, not read, and the model is one linear layer of zeros."""

    name = "bilinear"
    reads_texts = False
    auto_class: ClassVar[str | None] = None
    loss = staticmethod(half_squared_error)
    Source = BilinearSource

    def read(self, source: BilinearSource) -> RawTask:
        """The source alone: there are no rows."""
        return RawTask("bilinear", (), "r2", {}, "", self.name, source)

    def encode(self, raw: RawTask, reader: Any, limits: DataLimits) -> TaskData:
        """Draw the data."""
        return make_bilinear(raw.source)

    def reader(self, model: str) -> None:
        """None: vectors are read as they are."""

    def planning_reader(self, model: str) -> tuple[None, bool]:
        """None, as for training."""
        return None, True

    def recipe(
        self,
        model: str,
        data: TaskData,
        *,
        pooling: str | None = None,
        dtype: str = "float32",
        precision: str = "full",
        quantization: str | None = None,
        attn_implementation: str | None = None,
    ) -> BackboneRecipe:
        """A linear model of the data's width, which is not quantised."""
        from adapad_ray.models import LinearRecipe

        for name, value in (("quantization", quantization), ("attn_implementation", attn_implementation)):
            if value is not None:
                raise BadRequestError(f"{name} {value} is for pretrained models, not for model {model}")
        return LinearRecipe.of(*_features(data), dtype)

    def skeleton(self, model: str, data: TaskData, *, pooling: str | None = None, device: str = "meta") -> nn.Module:
        """The same on any device."""
        from adapad_ray.models import linear_backbone

        return linear_backbone(*_features(data), device=device).model

    def check(self, model: str, limited: Sequence[str]) -> None:
        """The model must be linear, and the data have no limits but `examples`."""
        from adapad_ray.models import LINEAR

        if model != LINEAR:
            raise BadRequestError(f"model {model!r} does not go with this task: task bilinear is for model {LINEAR}")
        for name in limited:
            raise BadRequestError(f"training.{name} is for texts: task bilinear has `examples` instead")

    def evaluate(self, data: TaskData, passes: Passes, splits: list[str]) -> dict[str, Evaluated]:
        """Outputs `[examples, m]`."""
        return evaluate_logits(data, passes, splits)


def make_bilinear(source: BilinearSource) -> TaskData:
    """Draw factors, inputs and noise from the source's seed; all splits have the same factors.

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
        name=Bilinear.name,
        class_names=(),
        metric="r2",
        splits=splits,
        digest=digest_of(splits, Bilinear.name, "r2"),
        loss=Bilinear.loss,
        type=Bilinear.name,
        components=TrueComponents.of(train.inputs.T, train.labels.T),
        sizes={name: SplitSize(len(split)) for name, split in splits.items()},
    )


def _split(source: BilinearSource, weight: np.ndarray, draw: np.random.Generator) -> DenseSplit:
    x = draw.standard_normal((source.examples, source.in_features))
    if source.inputs == "orthonormal":
        x = np.linalg.qr(x)[0] * np.sqrt(source.examples)
    noise = source.noise * draw.standard_normal((source.examples, source.out_features))
    return DenseSplit(x, x @ weight.T + noise)


def _features(data: TaskData) -> tuple[int, int]:
    """d and m."""
    split = data.splits["train"]
    assert isinstance(split, DenseSplit)
    return split.inputs.shape[1], split.labels.shape[1]
