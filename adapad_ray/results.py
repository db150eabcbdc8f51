"""The record of a finished cell.

A cell is one training of a sweep: a method, task, model, budget, hyperparameters and seed. Each cell's `result.json`
holds a `CellResult`. MLflow, the curve and the report are derived from these files.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

SCHEMA_VERSION = 1


Precision = Literal["full", "tf32", "mixed"]
"""Of the training; evaluation is in the backbone's dtype. `mixed`: products with frozen weights are in bf16. `tf32`:
all products of a GPU are in TF32. `full`: all are in the backbone's dtype."""


OF_ADAPTERS = ("lora_alpha", "dropout")
"""Settings that every method has (`methods.MethodConfig`), for its adapters."""


class Record(BaseModel):
    """Base class of the stored models: immutable, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CellIdentity(Record):
    """Everything that determines a cell's result, and nothing else: no workers, commit or attempt."""

    stage: Literal["tune", "search", "parent", "curve"]
    """`parent` is a training whose adapter post-hoc cells cut. Only `curve` cells read the test split."""
    label: str
    """Key of `methods` in the sweep's file, as in `lora/qv`."""
    method: str
    method_version: int
    config: dict[str, Any]
    """The method's configuration with all defaults."""
    training: dict[str, Any]
    """The training settings with all defaults; of a post-hoc cell, those of its parent."""
    model: str
    model_digest: str
    task: str
    data_digest: str
    target_modules: tuple[str, ...]
    """Full paths of the adapted modules, in the model's order."""
    budget: int | None
    """Deployed adapter parameters; None for a method without a budget (`head_only`)."""
    seed: int
    dtype: str
    precision: Precision = "full"
    quantization: str | None = None
    """How the backbone's linear layers are stored: as in a sweep's file, or what has quantised the model's files, such
    as `bitsandbytes`. None: as `dtype`."""
    attn_implementation: str | None = None
    """How the backbone's attention is computed; None: as transformers chooses."""
    threads: int
    packed: bool = False
    """Whether lanes share passes (see `adapters.packs`); another number of slots changes a result by rounding alone."""
    parent: str | None = None
    """Id of the cell whose adapter a post-hoc method cuts."""

    @property
    def acting_config(self) -> dict[str, Any]:
        """`config` without what has no effect: the settings of adapters, where there is no budget and so no adapter."""
        without = OF_ADAPTERS if self.budget is None else ()
        return {name: value for name, value in self.config.items() if name not in without}


class GrowthEvent(Record):
    """A change of a module's rank at an optimizer step: an activated component, or a removed one."""

    step: int
    module: str
    rank: int
    spent: int
    """Parameters charged to the budget after this event."""


class Point(Record):
    """A deployable model of a cell: one point of the accuracy-budget curve."""

    kind: Literal["final", "prefix"]
    prefix: int | None = None
    """For `prefix` points: the largest number of components per module."""
    parameters: int
    """Deployed adapter parameters, task head apart."""
    head_parameters: int
    ranks: dict[str, int]
    """Module → rank; modules of rank 0 are left out."""
    validation: dict[str, float]
    """Metric name → value on the validation split."""
    validation_loss: float | None = None
    """Mean training loss on the validation split; None for tasks whose answers are texts."""
    test: dict[str, float] = Field(default_factory=dict)
    """Metric name → value on the test split; empty except for `curve` cells."""
    adapter: str | None = None
    """Folder of the PEFT adapter, relative to the cell's folder; None if there is no adapter."""

    @field_validator("adapter")
    @classmethod
    def _stays_inside(cls, adapter: str | None) -> str | None:
        """Records may be untrusted, and `export` copies this folder."""
        if adapter is not None and (adapter.startswith("/") or ".." in adapter.split("/")):
            raise ValueError(f"adapter {adapter[:100]!r} must be a folder inside the cell's folder")
        return adapter

    @property
    def key(self) -> str:
        """Name of the point in its cell: `final` or `prefix-3`."""
        return self.kind if self.prefix is None else f"{self.kind}-{self.prefix}"


class WorkerCost(Record):
    """Training time of one worker of a cell. Growth and checkpoints are not included."""

    rank: int
    compute_seconds: float = 0.0
    wait_seconds: float = 0.0
    """Time waiting for other workers; data-parallel workers count it as exchange."""
    exchange_seconds: float = 0.0
    bytes_published: int = 0
    bytes_fetched: int = 0


class Cost(Record):
    """What training and evaluation cost. For a cell with a parent, training is the parent's, shared by its cells."""

    start_seconds: float
    """From the call to the first optimizer step, with the backbone loaded; includes cutting a parent's adapter."""
    train_seconds: float
    evaluation_seconds: float
    train_flops: float
    """Estimated forward and backward FLOPs of all lanes (2 per multiply-add)."""
    steps: int
    lane_passes: int
    """Forward-and-backward passes: one per step for joint methods, one per step and lane for deflation."""
    tokens: int
    """Tokens in forward-and-backward passes, padding excluded."""
    peak_parameters: int
    """Most adapter parameters in training at one time, reserves included."""
    peak_memory_bytes: int
    """Peak resident memory of the process on CPU, peak allocated memory on GPU."""
    workers: int = 1
    """Number of workers; the times above are those of rank 0."""
    per_worker: tuple[WorkerCost, ...] = ()
    """By rank."""
    side_by_side: int = 1
    """Most cells that took a step together with this one, itself included: they share passes, and times are shares."""


class CellResult(Record):
    """The record of one finished cell."""

    schema_version: int = SCHEMA_VERSION
    id: str = Field(pattern=r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*$")
    """Name of the cell's folder; must not be a path."""
    identity: CellIdentity
    metric: str
    """Name of the metric that ranks cells; larger is better."""
    points: tuple[Point, ...]
    """The final model first, then its prefixes in descending order."""
    train_loss: tuple[float, ...]
    """Training loss per optimizer step, summed over the lanes."""
    growth: tuple[GrowthEvent, ...] = ()
    budget_remainder: int = 0
    """Parameters of the budget that no further component fits into."""
    cost: Cost
    versions: dict[str, str]
    """Versions of Python and the libraries that computed the result."""

    @property
    def final(self) -> Point:
        """The model at the cell's full budget."""
        return self.points[0]

    @property
    def score(self) -> float:
        """The value that ranks the cell: the metric of the final model on the validation split."""
        return self.final.validation[self.metric]

    @property
    def tuning_score(self) -> float:
        """What the tune stage maximises: minus the validation loss of the final model, or its metric without one.

        Over a few hundred items a loss tells settings apart that a metric sees as equal.
        """
        loss = self.final.validation_loss
        return self.score if loss is None else -loss
