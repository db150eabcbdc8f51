"""What a finished cell says of itself: the record of truth of a sweep.

One `result.json` per cell holds a `CellResult`; MLflow, the curve and the report are views of these files.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

SCHEMA_VERSION = 1


class Record(BaseModel):
    """Base of the stored models: immutable, and a field this version does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class CellIdentity(Record):
    """Everything that determines a cell's result, and nothing else (not the workers, the commit or the attempt).

    `budget` is in deployed adapter parameters; `None` means that the method has no budget (`head_only`).
    """

    stage: Literal["tune", "search", "parent", "curve"]
    """`parent`: a training that others cut their adapters from. Only the curve reads the test split."""
    label: str
    """Key of `methods` in the sweep's file, for instance `lora/qv`."""
    method: str
    method_version: int
    config: dict[str, Any]
    """The method's resolved configuration, every default written out."""
    training: dict[str, Any]
    """The resolved training settings: epochs, batch size, learning rate, caps …"""
    model: str
    model_digest: str
    task: str
    data_digest: str
    target_modules: tuple[str, ...]
    """Full paths of the adapted modules, in the model's order."""
    budget: int | None
    seed: int
    dtype: str
    threads: int
    parent: str | None = None
    """Id of the cell whose adapter a post-hoc method cuts; `training` then describes the parent's."""


class GrowthEvent(Record):
    """One activated component: module `module` reached `rank` at optimizer step `step`; also a loss, in a method whose
    ranks may fall."""

    step: int
    module: str
    rank: int
    spent: int
    """Parameters charged to the budget after it."""


class Point(Record):
    """One deployable model that a cell produced, and so one point of an accuracy-budget curve."""

    kind: Literal["final", "prefix"]
    prefix: int | None = None
    """For `prefix` points: every module carries at most this many components."""
    parameters: int
    """Deployed adapter parameters, task head apart."""
    head_parameters: int
    ranks: dict[str, int]
    """Rank per module; modules of rank 0 are absent."""
    validation: dict[str, float]
    """Metric name → value on the validation split."""
    test: dict[str, float] = Field(default_factory=dict)
    """Metric name → value on the test split; empty outside the curve, which alone reads it."""
    adapter: str | None = None
    """PEFT folder relative to the cell's folder; None where nothing can be exported."""

    @field_validator("adapter")
    @classmethod
    def _stays_inside(cls, adapter: str | None) -> str | None:
        """Records may come from elsewhere, and what this names is copied."""
        if adapter is not None and (adapter.startswith("/") or ".." in adapter.split("/")):
            raise ValueError(f"adapter {adapter[:100]!r} must be a folder inside the cell's")
        return adapter

    @property
    def key(self) -> str:
        """Name of this point inside its cell: `final` or `prefix-3`."""
        return self.kind if self.prefix is None else f"{self.kind}-{self.prefix}"


class WorkerCost(Record):
    """Where the time of one worker of a cell went while it trained; growth and checkpoints are in none of the three."""

    rank: int
    compute_seconds: float = 0.0
    wait_seconds: float = 0.0
    """Time in which the worker idled because others were not ready (data-parallel workers count it as exchange)."""
    exchange_seconds: float = 0.0
    bytes_published: int = 0
    bytes_fetched: int = 0


class Cost(Record):
    """What the cell cost to train and evaluate. The training of a cell with a parent is its parent's, which all cells
    of that parent share."""

    start_seconds: float
    """From the call to the first optimizer step, in a group whose backbone is loaded; a parent's cut is in it."""
    train_seconds: float
    evaluation_seconds: float
    train_flops: float
    """Forward and backward floating-point operations of all lanes (an estimate: 2 per multiply-add)."""
    steps: int
    lane_passes: int
    """Forward-and-backward passes: `steps` for joint methods, one per lane and step for deflation in exact mode."""
    tokens: int
    """Non-padding tokens that went through a forward and backward pass."""
    peak_parameters: int
    """Largest number of adapter parameters in training at one time, reserves included."""
    peak_memory_bytes: int
    """Peak resident memory of the process (CPU) or peak allocated memory (GPU)."""
    workers: int = 1
    """Workers that the cell had; times are those of rank 0."""
    per_worker: tuple[WorkerCost, ...] = ()
    """By rank; empty in records of versions that did not keep it."""


class CellResult(Record):
    """The record of one finished cell."""

    schema_version: int = SCHEMA_VERSION
    id: str = Field(pattern=r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*$")
    """Names its folder, and so is no path."""
    identity: CellIdentity
    metric: str
    """Name of the metric that decides; larger is better."""
    points: tuple[Point, ...]
    """The final model first, then its prefixes in descending order."""
    train_loss: tuple[float, ...]
    """Training loss per optimizer step, summed over the lanes of that step."""
    growth: tuple[GrowthEvent, ...] = ()
    budget_remainder: int = 0
    """Parameters of the budget that no component fitted into."""
    cost: Cost
    versions: dict[str, str]
    """Versions of Python and of the libraries that computed the result."""

    @property
    def final(self) -> Point:
        """The model at the cell's full budget."""
        return self.points[0]

    @property
    def score(self) -> float:
        """What the cell is judged by: the metric of the final model on the validation split."""
        return self.final.validation[self.metric]
