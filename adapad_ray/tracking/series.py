"""What the training of a cell leaves over its optimizer steps, for MLflow and for every `CellWriter`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adapad_ray.results import CellIdentity, CellResult
from adapad_ray.training.cell.validation import LOSS, Validation, load_validations

Series = dict[str, dict[int, float]]
"""Metric → step → value."""
TRAIN_LOSS = "train_loss"
"""Metric of a cell; its step counts from 0."""


def run_name(identity: CellIdentity) -> str:
    """`lora 41,472 seed 0`."""
    budget = "" if identity.budget is None else f" {identity.budget:,}"
    return f"{identity.label}{budget} seed {identity.seed}"


def series_of_progress(progress: Mapping[str, Any]) -> Series:
    """The loss of the last step and the validations so far.

    Args:
        progress: as a worker reports it (`training.record.OnProgress`).
    """
    loss = progress.get("loss")
    losses = {} if loss is None else {TRAIN_LOSS: {progress["step"] - 1: loss}}
    return losses | _series_of_validations(progress.get("validations", ()))


def series_of_training(result: CellResult, folder: Path) -> Series:
    """All losses and validations of the finished cell in `folder`."""
    return {TRAIN_LOSS: dict(enumerate(result.train_loss))} | _series_of_validations(load_validations(folder))


def final_scores(result: CellResult) -> dict[str, float]:
    """Metric → value at the end of the training."""
    final = result.final
    return {
        **{f"validation/{name}": value for name, value in final.validation.items()},
        **({} if final.validation_loss is None else {f"validation/{LOSS}": final.validation_loss}),
        **{f"test/{name}": value for name, value in final.test.items()},
    }


def _series_of_validations(validations: Iterable[Validation]) -> Series:
    series: Series = {}
    for step, scores in validations:
        for name, value in scores.items():
            series.setdefault(f"validation/{name}", {})[step] = value
    return series
