"""What sends cells to a tracker beside MLflow: the base class of `tensorboard.py` and `wandb.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapad_ray.results import CellIdentity, CellResult
from adapad_ray.tracking.series import Series, final_scores, series_of_progress, series_of_training

LastSteps = dict[str, int]
"""Metric → the last step that a tracker has."""


class CellWriter(ABC):
    """Sends what cells report while they train to a tracker, each step once and in order.

    A step that is not above the last one of its metric is skipped: a cell that trains again from its checkpoint, in
    this launch or in a later one, adds nothing to what is there.
    """

    def __init__(self) -> None:
        self._last: dict[str, LastSteps] = {}
        """By cell id, of this launch's cells."""

    def progress(self, cell_id: str, identity: CellIdentity, progress: Mapping[str, Any]) -> None:
        """Sends the loss and the validations that a worker has reported, as `training.record.OnProgress`."""
        self._write(cell_id, identity, series_of_progress(progress))

    def finish(self, result: CellResult, folder: Path) -> None:
        """Sends what is missing of the finished cell in `folder`, its final scores included."""
        series = series_of_training(result, folder)
        for name, value in final_scores(result).items():
            series.setdefault(name, {})[result.cost.steps] = value
        self._write(result.id, result.identity, series)
        self.end(result.id)

    def _write(self, cell_id: str, identity: CellIdentity, series: Series) -> None:
        """Sends the steps that the tracker has not."""
        if cell_id not in self._last:
            self._last[cell_id] = self.last_steps(cell_id, identity)
        last, rows = self._last[cell_id], dict[int, dict[str, float]]()
        for name, values in series.items():
            for step, value in values.items():
                if step > last.get(name, -1):
                    rows.setdefault(step, {})[name] = value
        for step in sorted(rows):
            last.update(dict.fromkeys(rows[step], step))
        if rows:
            self.send(cell_id, identity, dict(sorted(rows.items())), last)

    @abstractmethod
    def last_steps(self, cell_id: str, identity: CellIdentity) -> LastSteps:
        """What the tracker has of a cell from earlier launches."""

    @abstractmethod
    def send(
        self, cell_id: str, identity: CellIdentity, rows: Mapping[int, Mapping[str, float]], last: LastSteps
    ) -> None:
        """Sends new values: step → metric → value, in the order of the steps; `last` holds for all that was sent."""

    @abstractmethod
    def end(self, cell_id: str, *, failed: bool = False) -> None:
        """The cell has ended in this launch."""

    @abstractmethod
    def close(self) -> None:
        """The launch ends: closes what is open."""

    @property
    @abstractmethod
    def how_to_look(self) -> dict[str, str]:
        """For the terminal: a name and a command or an address."""
