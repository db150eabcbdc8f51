"""Scores on the validation split while a cell trains: they are reported, and change nothing in the result."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from adapad_ray.files import write_text
from adapad_ray.methods.base import Method
from adapad_ray.tasks import TYPES, Split
from adapad_ray.training.cell.request import CellRequest
from adapad_ray.training.cell.rungs import RungScore
from adapad_ray.training.cell.workspace import Workspace
from adapad_ray.training.record import OnProgress
from adapad_ray.training.settings import TrainingSettings

VALIDATIONS = "validations.json"
"""File in the cell's folder with the scores so far."""
LOSS = "loss"
"""Name of the validation loss among the scores."""


class Validation(NamedTuple):
    """The scores of the whole model after `step` optimizer steps."""

    step: int
    scores: dict[str, float]
    """Metric name, or `loss`, → value."""


class Validator:
    """Scores the model `request.validations` times, at the first round that ends after each share of the steps.

    The last time would be the end of the training, which is evaluated anyway, and is left out.
    """

    def __init__(self, request: CellRequest, workspace: Workspace, method: Method[Any]) -> None:
        self._request, self._workspace, self._method = request, workspace, method
        self._settings = TrainingSettings(**request.identity.training)
        self._done: list[Validation] = []

    def rewind(self, step: int) -> None:
        """Takes over what an earlier attempt has measured up to `step`."""
        self._done = [entry for entry in load_validations(self._request.folder) if entry.step <= step]

    def reporting(self, report: OnProgress | None) -> OnProgress:
        """A report of progress that measures where it is time, and has the scores so far as `validations`."""

        def on_progress(data: dict[str, Any]) -> None:
            if self._is_due(data["step"], data["steps"]):
                self._measure(data["step"])
            if report is not None:
                report({**data, "validations": self._done})

        return on_progress

    def _is_due(self, step: int, steps: int) -> bool:
        times = self._request.validations
        last = self._done[-1].step if self._done else 0
        return any(last < steps * n / (times + 1) <= step for n in range(1, times + 1)) and step < steps

    def _measure(self, step: int) -> None:
        scores = self._scores(self._workspace.data.splits["validation"])
        if scores is None:  # a model that diverges: the training finds the step itself
            return
        self._done.append(Validation(step, scores))
        write_text(self._request.folder / VALIDATIONS, json.dumps(self._done))

    def rung(self, step: int, seconds: float) -> RungScore:
        """The score of the model as it is now, after so many steps and seconds, as `CellResult.tuning_score`."""
        split = self._workspace.data.compared_on
        scores = self._scores(split) or {}
        loss = scores.get(LOSS)
        score = scores.get(self._workspace.data.metric, math.nan) if loss is None else -loss
        if not math.isfinite(score):
            return RungScore(step, None, None, seconds, len(split))
        return RungScore(step, score, loss, seconds, len(split))

    def _scores(self, split: Split) -> dict[str, float] | None:
        """None if the model's outputs are not finite."""
        data, adapted = replace(self._workspace.data, splits={"validation": split}), self._method.adapted
        adapted.use(self._method.whole())
        passes = self._workspace.passes(adapted.model, self._settings.evaluation_batch_size)
        try:
            with adapted.constant():
                evaluated = TYPES[data.type].evaluate(data, passes, ["validation"])["validation"]
        except FloatingPointError:
            return None
        loss = {} if evaluated.loss is None else {LOSS: evaluated.loss}
        return {**evaluated.metrics, **loss}


def load_validations(cell: Path) -> list[Validation]:
    """The scores in a cell's folder, by step; empty where there are none."""
    path = cell / VALIDATIONS
    return [Validation(*entry) for entry in json.loads(path.read_text())] if path.exists() else []
