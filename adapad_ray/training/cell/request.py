"""What a caller asks `run_cell` to compute."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from adapad_ray.results import CellIdentity
from adapad_ray.training.checkpoint import CheckpointPolicy


@dataclass(frozen=True)
class CellRequest:
    """One cell, and where its files go."""

    id: str
    identity: CellIdentity
    folder: Path
    """The cell's own folder: checkpoint, rounds, adapters, predictions and `result.json`."""
    base_model: str
    """Name of the backbone in exported adapters."""
    parent: Path | None = None
    """For a post-hoc method: the folder of the finished cell whose adapter it cuts."""
    checkpoints: CheckpointPolicy = field(default_factory=CheckpointPolicy)
    validations: int = 0
    """Times that the validation split is scored during training."""
    pause_at: int | None = None
    """Optimizer step, the end of a round, at which the training pauses: the next request resumes it."""
    slots_per_pass: int | Literal["auto"] = "auto"
    """Most lanes of one pass, where the identity says that lanes share passes."""
