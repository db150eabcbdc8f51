"""What a report needs besides the finished cells; the sweep's manifest stores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from adapad_ray.report.published import PublishedPoint
from adapad_ray.tasks import SplitSize


class Gap(NamedTuple):
    """A (label, budget) pair that cannot exist, and why."""

    label: str
    budget: int | None
    reason: str


class FailedCell(NamedTuple):
    """A cell without a result, and why."""

    label: str
    budget: int | None
    seed: int
    reason: str


class StoppedTrial(NamedTuple):
    """A trial of the tune stage that was stopped early."""

    label: str
    budget: int | None
    seed: int
    settings: dict[str, Any]
    """The point that was tried."""
    step: int
    """Optimizer steps done."""
    steps: int
    """Of the whole training."""
    score: float | None
    """What the stage maximises (`CellResult.tuning_score`), there; None if it is not finite."""
    loss: float | None
    """On a sample of the validation split, there; None for tasks without one, and if it is not finite."""
    seconds: float
    """Of training."""

    @property
    def sentence(self) -> str:
        """Where it was stopped, and with which score."""
        value = "no finite score" if self.score is None else f"validation score {self.score:.4f}"
        if self.loss is not None:
            value = f"validation loss {self.loss:.4f}"
        return f"stopped early at step {self.step:,} of {self.steps:,}: {value}"


class SearchedLabel(NamedTuple):
    """The search of one label, in a sweep of `mode: search`."""

    label: str
    study: str
    """Name of its study in the sweep's `optuna.db`."""
    trials: int
    """Trials that the sweep's file requests."""
    front_label: str
    """Label of the retrained front in the curve."""
    front: list[int]
    """Numbers of the trials that were retrained with every seed."""


@dataclass(frozen=True)
class ReportInputs:
    """What a report needs besides the finished cells."""

    title: str
    labels: Mapping[str, str] | None = None
    """Label by cell id, for every cell of the sweep; None: all cells in the folder, with their recorded labels."""
    gaps: Sequence[Gap] = ()
    failed: Sequence[FailedCell] = ()
    stopped: Sequence[StoppedTrial] = ()
    """Trials of the tune stage that were stopped early: they have no record."""
    searched: Sequence[SearchedLabel] = ()
    """The searches of a sweep of `mode: search`."""
    published: Sequence[PublishedPoint] = ()
    """Values from papers to show beside the sweep's own."""
    splits: Mapping[str, SplitSize] = field(default_factory=dict)
    """How many rows of the data are used; empty if the sweep has not recorded it."""
    warnings: Sequence[str] = ()
    """What is suspicious about the data, the tokenizer and the model."""
    mlflow_url: str | None = None
    """Address of the comparison in MLflow, or the command that opens it."""
    delta: float = 0.01
    """Margin of the recommendation on the validation metric, and the difference that seeds are planned for."""
    confidence: float = 0.95
    """One-sided confidence of the recommendation."""
    draws: int = 2000
    """Bootstrap resamples of the test items."""
