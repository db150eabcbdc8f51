"""Reads the records of a sweep's finished cells, and names what its search leaves in the folder.

A *cell* is one training run of a sweep: one method variant (its *label*), budget and seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from adapad_ray.errors import BadRequestError
from adapad_ray.results import CellResult
from adapad_ray.storage import RECORD

DATABASE = "optuna.db"
"""File of Optuna's studies in a sweep's folder."""
REASON = "reason"
"""User attribute of a failed Optuna trial that holds its error message."""


def load_results(folder: Path | str, labels: Mapping[str, str] | None = None) -> list[CellResult]:
    """Loads the records of the finished cells in a sweep's folder, sorted by cell id.

    `labels` maps cell ids to labels: other cells are skipped, and the recorded labels are replaced by these.

    Raises:
        BadRequestError: a record is damaged, or the folder has no finished cell.
    """
    results = []
    for path in sorted(Path(folder).glob(f"cells/*/{RECORD}")):
        if labels is not None and path.parent.name not in labels:
            continue
        try:
            result = CellResult.model_validate_json(path.read_bytes())
        except (ValidationError, OSError) as error:
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise BadRequestError(
                f"{path} is not a readable cell record ({first}): delete that cell's folder and launch the sweep again"
            ) from error
        if labels is not None:
            identity = result.identity.model_copy(update={"label": labels[result.id]})
            result = result.model_copy(update={"identity": identity})
        results.append(result)
    if not results:
        raise BadRequestError(f"{folder} holds no finished cell: run the sweep first")
    return sorted(results, key=lambda result: result.id)


def load_predictions(folder: Path, cell_id: str) -> dict[str, NDArray[Any]]:
    """Loads a cell's stored predictions: `{split}/labels` and `{split}/{point}` for every deployable model.

    Raises:
        BadRequestError: the file is missing or damaged.
    """
    path = folder / "cells" / cell_id / "predictions.safetensors"
    try:
        predictions: dict[str, NDArray[Any]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadRequestError(
            f"{path} is not readable ({error}): delete that cell's folder and launch the sweep again"
        ) from error
    return predictions
