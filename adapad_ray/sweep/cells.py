"""Cells: what a sweep is made of, by what their identity is, and where their results lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from adapad_ray.errors import BadRequestError
from adapad_ray.results import CellIdentity, CellResult
from adapad_ray.storage import RECORD

_NAMES_FOR_PEOPLE = {"model", "task", "label"}
"""Fields of the identity that do not enter the hash: digests say which model and data; a label may be renamed."""


@dataclass(frozen=True)
class Cell:
    """One thing to compute."""

    identity: CellIdentity

    @property
    def id(self) -> str:
        """Hash of what determines the result."""
        content = self.identity.model_dump(mode="json", exclude=_NAMES_FOR_PEOPLE)
        if content["parent"] is None:  # cells without a parent keep the ids that they had before there were any
            del content["parent"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def within_sweep(self) -> str:
        """Where its result lies, relative to the sweep's folder."""
        return f"cells/{self.id}"

    def folder(self, sweep: Path) -> Path:
        """Where its result lies."""
        return sweep / self.within_sweep


def finished(cells: Iterable[Cell], sweep: Path) -> dict[str, CellResult]:
    """Results of those cells that have one, by id.

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
