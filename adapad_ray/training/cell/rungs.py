"""What a trial of the tune stage has measured where its training paused: what decides whether it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from adapad_ray.files import write_text

RUNGS = "rungs.json"
"""File in the cell's folder."""


class RungScore(NamedTuple):
    """The validation of the whole model where the training paused, with averaged weights (`Trainer.use_average`) and on
    a sample of the validation split (`TaskData.validation_sample`)."""

    step: int
    """Optimizer steps done."""
    score: float | None
    """Larger is better: minus the validation loss, or the metric of a task without one. None if it is not finite."""
    loss: float | None
    """None for tasks without one, and if it is not finite."""
    seconds: float
    """Of training so far."""


def load_rungs(cell: Path) -> list[RungScore]:
    """The scores in a cell's folder, by step; empty where there are none."""
    path = cell / RUNGS
    return [RungScore(*entry) for entry in json.loads(path.read_text())] if path.exists() else []


def add_rung(cell: Path, rung: RungScore) -> None:
    """Adds a score to the file, atomically; a step that has one keeps it."""
    known = load_rungs(cell)
    if rung.step not in {entry.step for entry in known}:
        write_text(cell / RUNGS, json.dumps(sorted([*known, rung])))
