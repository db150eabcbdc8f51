"""What a user says about a task: which files or data set, and which columns."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from adapad_ray.errors import BadRequestError

SPLITS = ("train", "validation", "test")


class TaskSource(BaseModel):
    """Sequence classification over one or two text columns, from local files or a data set of the Hub.

    With `dataset`, the fields `train`, `validation` and `test` name splits of it; otherwise they are paths of
    jsonl, json, csv, tsv or parquet files. Only the training data are required: missing splits are carved from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["classification"] = "classification"
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    dataset: str | None = None
    subset: str | None = None
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    group: str | None = None
    """Column whose values must not be torn apart when splits are carved, such as a document or an author."""
    metric: Literal["accuracy", "f1", "macro_f1", "matthews"] = "accuracy"

    @model_validator(mode="after")
    def _has_training_data(self) -> TaskSource:
        if self.train is None and self.dataset is None:
            raise ValueError("a task needs `train` (a file) or `dataset` (a name on the Hub), and has neither")
        if self.subset is not None and self.dataset is None:
            raise ValueError(f"subset {self.subset!r} belongs to a `dataset`, and there is none")
        return self


class BilinearSource(BaseModel):
    """The linear setting of deflation (2605.10741, section on the linear model): Y = W X + noise, made from a seed.

    W = Σ σ_k u_k v_kᵀ has a chosen spectrum and random orthonormal u_k, v_k, so the components that deflation should
    find are known. It goes with `model: linear`. Sizes and spectrum are ours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    type: Literal["bilinear"]
    in_features: int = Field(default=32, ge=1)
    """d, rows of X."""
    out_features: int = Field(default=24, ge=1)
    """m, rows of Y."""
    examples: int = Field(default=256, ge=1)
    """n, columns of X in each of the three splits."""
    spectrum: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(1.0, 0.8, 0.6, 0.4, 0.2), min_length=1)
    """Singular values of W, strictly falling: convergence slows down as the gaps between them shrink."""
    inputs: Literal["orthonormal", "gaussian"] = "orthonormal"
    """Rows of X: orthogonal and of length √n, or independent standard normal numbers."""
    noise: float = Field(default=0.0, ge=0)
    """Standard deviation of the normal noise on every entry of Y, in every split."""
    seed: int = 0

    @model_validator(mode="after")
    def _components_are_distinct(self) -> BilinearSource:
        widest = min(self.in_features, self.out_features)
        if len(self.spectrum) > widest:
            raise ValueError(f"spectrum has {len(self.spectrum)} values where the features allow {widest}")
        if any(low >= high for high, low in zip(self.spectrum, self.spectrum[1:], strict=False)):
            raise ValueError(f"spectrum {list(self.spectrum)} must fall strictly: equal values have no order")
        if self.examples < self.in_features:
            raise ValueError(f"examples {self.examples} must not be below in_features {self.in_features}")
        return self


def parse_source(mapping: Mapping[str, Any]) -> TaskSource | BilinearSource:
    """Return the source that a mapping describes.

    Raises:
        BadRequestError: a field is unknown, missing or unusable.
    """
    model = BilinearSource if mapping.get("type") == "bilinear" else TaskSource
    try:
        return model.model_validate(dict(mapping))
    except ValidationError as error:
        raise BadRequestError(_explain(error, model)) from error


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        fields = list(model.model_fields)
        nearest = difflib.get_close_matches(key, fields, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        return f"task has no field {key!r}: {hint}it takes {', '.join(fields)}"
    message = problem["msg"].removeprefix("Value error, ")
    if not key:
        return message
    return f"task field {key!r} is {problem['input']!r}: {message[:1].lower()}{message[1:]}"
