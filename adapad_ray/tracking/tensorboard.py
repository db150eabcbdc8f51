"""Writes cells as runs of TensorBoard: one folder of event files per cell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adapad_ray.results import CellIdentity
from adapad_ray.tracking.cell_writer import CellWriter, LastSteps
from adapad_ray.tracking.names import mlflow_key
from adapad_ray.tracking.series import run_name

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(CellWriter):
    """Event files below `folder`, which also tell what earlier launches have written."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._open: dict[str, SummaryWriter] = {}
        """By cell id."""

    def last_steps(self, cell_id: str, identity: CellIdentity) -> LastSteps:
        """Reads them from the cell's event files."""
        place = self._place(cell_id, identity)
        if not place.is_dir():
            return {}
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(place), size_guidance={"scalars": 1}).Reload()
        return {name: events.Scalars(name)[-1].step for name in events.Tags()["scalars"]}

    def send(
        self, cell_id: str, identity: CellIdentity, rows: Mapping[int, Mapping[str, float]], last: LastSteps
    ) -> None:
        """Appends them to the cell's event file."""
        from torch.utils.tensorboard import SummaryWriter

        if cell_id not in self._open:
            self._open[cell_id] = SummaryWriter(str(self._place(cell_id, identity)))
        for step, values in rows.items():
            for name, value in values.items():
                self._open[cell_id].add_scalar(name, value, step)
        self._open[cell_id].flush()

    def end(self, cell_id: str, *, failed: bool = False) -> None:
        """Closes its event file."""
        if cell_id in self._open:
            self._open.pop(cell_id).close()

    def close(self) -> None:
        """Closes all event files."""
        for cell_id in list(self._open):
            self.end(cell_id)

    @property
    def how_to_look(self) -> dict[str, str]:
        """The command that serves the event files."""
        return {"TensorBoard": f"tensorboard --logdir {shlex.quote(str(self._folder))}"}

    def _place(self, cell_id: str, identity: CellIdentity) -> Path:
        return self._folder / mlflow_key(f"{identity.stage} {run_name(identity).replace('/', '-')} {cell_id}")
