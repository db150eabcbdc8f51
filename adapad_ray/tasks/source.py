"""What a user says about a task: which files or data set, and which columns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adapad_ray.tasks.metrics import ClassMetricName

SPLITS = ("train", "validation", "test")
_MOST_ENTRIES = 2 * 10**8


class DataSource(BaseModel):
    """Where the rows of a task are, whatever its type: local files, or a data set of the Hub.

    With `dataset`, the fields `train`, `validation` and `test` name splits of it; otherwise they are paths of
    jsonl, json, csv, tsv or parquet files. Only the training data are required: missing splits are carved from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: str
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    dataset: str | None = None
    subset: str | None = None
    group: str | None = None
    """Column whose values must not be torn apart when splits are carved, such as a document or an author."""
    further_tests: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], str] = {}
    """Name → file or split that is measured beside the test, as `<name>_<metric>`, and decides nothing. A local file
    that is not there is left out."""
    examples: dict[Literal["train", "validation", "test"], Annotated[int, Field(ge=1)]] = {}
    """How many rows the data set has: `adapad plan` counts with them where the data are not at hand."""
    classes: Annotated[int, Field(ge=1)] = 2
    """How many classes it has, for the same purpose; otherwise they are counted."""

    @model_validator(mode="after")
    def _has_training_data(self) -> Self:
        if self.train is None and self.dataset is None:
            raise ValueError("a task needs `train` (a file) or `dataset` (a name on the Hub), and has neither")
        if self.subset is not None and self.dataset is None:
            raise ValueError(f"subset {self.subset!r} belongs to a `dataset`, and there is none")
        return self

    def inside(self, folder: str | None) -> Self:
        """The same with its files in `folder`; paths that are absolute, and data of the Hub, stay as they are."""
        if folder is None or self.dataset is not None:
            return self
        base = Path(folder).expanduser()
        files = {name: str(base / path) for name in SPLITS if (path := getattr(self, name)) is not None}
        further = {name: str(base / path) for name, path in self.further_tests.items()}
        return self.model_copy(update={**files, "further_tests": further})


class TextSource(DataSource):
    """One or two text columns and a label."""

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"


class TaskSource(TextSource):
    """Sequence classification over one or two text columns."""

    type: Literal["classification"] = "classification"
    metric: ClassMetricName = "accuracy"
    """`accuracy_f1` is the mean of accuracy and F1 of label 1, which GLUE judges MRPC and QQP by."""


class BilinearSource(BaseModel):
    """The linear setting of deflation (2605.10741, section on the linear model): Y = W X + noise, made from a seed.

    W = Σ σ_k u_k v_kᵀ has a chosen spectrum and random orthonormal u_k, v_k, so the components that deflation should
    find are known. It goes with `model: linear`. Sizes and spectrum are ours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

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
