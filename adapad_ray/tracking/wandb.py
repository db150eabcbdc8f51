"""Sends cells to Weights & Biases: one run per cell, grouped by sweep."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from adapad_ray.errors import BadRequestError
from adapad_ray.files import write_text
from adapad_ray.results import CellIdentity
from adapad_ray.tracking.cell_writer import CellWriter, LastSteps
from adapad_ray.tracking.series import run_name

if TYPE_CHECKING:
    import wandb

logger = logging.getLogger(__name__)

SENT = "sent.json"
"""File that says which steps were sent: cell id → metric → last step."""


def check_login() -> None:
    """Checks, without asking the server, that runs can be created.

    Raises:
        BadRequestError: nobody is logged in, and WANDB_MODE is not `offline`.
    """
    import wandb

    try:
        online = wandb.setup().settings.mode not in ("offline", "disabled", "dryrun")
        known = not online or wandb.login(prompt=False)
    except wandb.errors.Error as error:
        raise BadRequestError(f"Weights & Biases cannot be used: {error}") from error
    if not known:
        raise BadRequestError(
            "nobody is logged in to Weights & Biases: run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline"
        )


class WeightsAndBiases(CellWriter):
    """Runs of a project. Without the server, they are kept in the sweep's folder.

    If a run cannot be created, one warning is logged and the launch goes on without.

    Args:
        folder: of the sweep; the package writes into `wandb` there.
        sweep: the runs' group.
        project: as in `project` or `team/project`.
    """

    def __init__(self, folder: Path, sweep: str, project: str) -> None:
        super().__init__()
        self._folder, self._sweep = folder, sweep
        self._entity, _, self._project = project.rpartition("/")
        self._runs: dict[str, wandb.Run] = {}
        """By cell id, those that are open."""
        self._address: str | None = None
        self._broken = False
        path = self._place / SENT
        self._sent: dict[str, LastSteps] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def last_steps(self, cell_id: str, identity: CellIdentity) -> LastSteps:
        """Reads them from the sweep's folder: the server is not asked, and may have no runs yet."""
        return dict(self._sent.get(cell_id, {}))

    def send(
        self, cell_id: str, identity: CellIdentity, rows: Mapping[int, Mapping[str, float]], last: LastSteps
    ) -> None:
        """Logs them; that they are sent is noted before."""
        run = self._run(cell_id, identity)
        if run is None:
            return
        self._sent[cell_id] = dict(last)
        write_text(self._place / SENT, json.dumps(self._sent))
        for step, values in rows.items():
            run.log(dict(values), step=step)

    def end(self, cell_id: str, *, failed: bool = False) -> None:
        """Ends its run."""
        if cell_id in self._runs:
            self._runs.pop(cell_id).finish(exit_code=int(failed))

    def close(self) -> None:
        """Ends the runs of cells that did not end as failed; a later launch continues them."""
        for cell_id in list(self._runs):
            self.end(cell_id, failed=True)

    @property
    def how_to_look(self) -> dict[str, str]:
        """The project's page or, offline, the command that uploads the runs."""
        return {"W&B": self._address or f"wandb sync {shlex.quote(str(self._place))}/offline-run-*"}

    @property
    def _place(self) -> Path:
        return self._folder / "wandb"

    def _run(self, cell_id: str, identity: CellIdentity) -> wandb.Run | None:
        import wandb

        if cell_id not in self._runs and not self._broken:
            self._place.mkdir(parents=True, exist_ok=True)  # else the package takes a temporary folder
            try:
                run = wandb.init(
                    project=self._project,
                    entity=self._entity or None,
                    group=self._sweep,
                    job_type=identity.stage,
                    name=run_name(identity),
                    id=f"{self._sweep}-{cell_id}",
                    config=identity.model_dump(mode="json", exclude={"target_modules"}),
                    dir=str(self._folder),
                    resume="allow",
                    reinit="create_new",
                    settings=wandb.Settings(silent=True, console="off"),
                )
            except wandb.errors.Error as error:
                self._broken = True
                logger.warning("Weights & Biases is unavailable (%s): the sweep continues without it", error)
                return None
            self._runs[cell_id] = run
            self._address = self._address or run.project_url or None
        return self._runs.get(cell_id)
