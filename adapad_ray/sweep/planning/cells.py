"""Cells of a sweep: their ids, and where their results lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from adapad_ray.errors import BadRequestError
from adapad_ray.methods import Method, Plan
from adapad_ray.results import CellIdentity, CellResult
from adapad_ray.storage import RECORD

NAMES = {"model", "task", "label"}
"""Fields of the identity that do not enter the id: digests identify model and data, and labels may be renamed."""

Results = Mapping[str, CellResult]
"""Finished cells by id."""


def lane_steps(method: Method[Any], plan: Plan) -> int:
    """The most forward and backward passes that a training takes: its steps times its lanes."""
    return method.training_steps * plan.lanes


@dataclass(frozen=True)
class Cell:
    """One training run of a sweep."""

    identity: CellIdentity

    @cached_property
    def id(self) -> str:
        """Hash of everything that determines the result."""
        content = self.identity.model_dump(mode="json", exclude=NAMES)
        for added in (
            "packed",
            "quantization",
            "attn_implementation",
        ):  # ids from before there were these fields stay valid
            if not content[added]:
                del content[added]
        for added in ("micro_batch_size", "pack_sequences"):
            if not content["training"].get(added):
                content["training"].pop(added, None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def within_sweep(self) -> str:
        """The cell's folder, relative to the sweep's."""
        return f"cells/{self.id}"

    def folder(self, sweep: Path) -> Path:
        """The cell's folder."""
        return sweep / self.within_sweep


@dataclass(frozen=True)
class PlannedCell:
    """A cell with the hyperparameters that were chosen for it."""

    cell: Cell
    point: Mapping[str, Any]
    """Hyperparameters that differ from the sweep's file: a point of a search space."""
    counted: bool = True
    """Whether the plan's number of cells includes it: parents and the retrained front are known only during a run."""

    @property
    def id(self) -> str:
        """The cell's id."""
        return self.cell.id

    @property
    def stage(self) -> str:
        """The cell's stage: tune, search, parent or curve."""
        return self.cell.identity.stage


Wave = list[PlannedCell]
"""Cells that can be computed side by side."""


def load_finished(cells: Iterable[Cell], sweep: Path) -> dict[str, CellResult]:
    """Loads the results of those cells that have one, by id.

    Raises:
        BadRequestError: a `result.json` is damaged.
    """
    results = {}
    for cell in cells:
        path = cell.folder(sweep) / RECORD
        if path.exists():
            try:
                results[cell.id] = CellResult.model_validate_json(path.read_text())
            except ValidationError as error:
                raise BadRequestError(
                    f"{path} is damaged ({error.error_count()} problems): delete its folder to compute the cell again"
                ) from error
    return results
