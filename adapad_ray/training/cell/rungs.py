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
    what may be a sample of the validation split (`TaskData.compared_on`)."""

    step: int
    """Optimizer steps done."""
    score: float | None
    """Larger is better: minus the validation loss, or the metric of a task without one. None if it is not finite."""
    loss: float | None
    """None for tasks without one, and if it is not finite."""
    seconds: float
    """Of training so far."""
    rows: int = 0
    """Examples that were scored; scores of different numbers are not compared. 0 in files of earlier versions."""


def load_rungs(cell: Path) -> list[RungScore]:
    """The scores in a cell's folder, by step; empty where there are none."""
    path = cell / RUNGS
    return [RungScore(*entry) for entry in json.loads(path.read_text())] if path.exists() else []


def add_rung(cell: Path, rung: RungScore) -> None:
    """Adds a score to the file, atomically, in place of one at the same step."""
    others = [entry for entry in load_rungs(cell) if entry.step != rung.step]
    write_text(cell / RUNGS, json.dumps(sorted([*others, rung])))
