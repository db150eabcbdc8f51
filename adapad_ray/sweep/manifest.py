"""The manifest of a sweep's folder: what a report needs beside the finished cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from adapad_ray.budget import BudgetUnits
from adapad_ray.files import write_text
from adapad_ray.report.inputs import FailedCell, Gap, ReportInputs, SearchedLabel, StoppedTrial
from adapad_ray.report.published import PublishedPoint
from adapad_ray.results import CellResult
from adapad_ray.storage import MANIFEST, require_sweep
from adapad_ray.tasks import SplitSize

_ROWS = ("gaps", "failed", "stopped", "searched")


@dataclass(frozen=True)
class Manifest:
    """Which cells belong to the sweep as its file is now, and what is missing."""

    title: str
    labels: dict[str, str] | None
    """Cell id → label, for every cell of the sweep; None while they are unknown: then all finished cells count."""
    gaps: list[Gap]
    failed: list[FailedCell]
    delta: float
    """How much worse than the best, in units of the metric, a recommended model may be."""
    mlflow: str
    """Link to the comparison in MLflow; empty before the first report."""
    stopped: list[StoppedTrial] = field(default_factory=list)
    """Trials of the tune stage that were stopped early."""
    searched: list[SearchedLabel] = field(default_factory=list)
    published: list[PublishedPoint] = field(default_factory=list)
    cells: int = 0
    """Cells that the sweep's file describes, without parents and the retrained front of a search."""
    splits: dict[str, SplitSize] = field(default_factory=dict)
    """How many rows of the data are used."""
    warnings: list[str] = field(default_factory=list)
    """What is suspicious about the data, the tokenizer and the model."""
    units: BudgetUnits | None = None
    """What the units of the file's budgets are worth."""

    def save(self, folder: Path) -> None:
        """Writes the manifest into the sweep's folder, atomically."""
        rows = {name: [list(row) for row in getattr(self, name)] for name in _ROWS}
        published = [point.model_dump() for point in self.published]
        splits = {name: asdict(size) for name, size in self.splits.items()}
        units = None if self.units is None else asdict(self.units)
        content: dict[str, Any] = {**vars(self), **rows, "published": published, "splits": splits, "units": units}
        write_text(folder / MANIFEST, yaml.safe_dump(content, sort_keys=False))

    def report_inputs(self) -> ReportInputs:
        """The inputs of `build_report`."""
        return ReportInputs(
            title=self.title,
            labels=self.labels,
            gaps=self.gaps,
            failed=self.failed,
            stopped=self.stopped,
            searched=self.searched,
            published=self.published,
            splits=self.splits,
            warnings=self.warnings,
            mlflow_url=self.mlflow or None,
            delta=self.delta,
        )

    def missing(self, finished: Sequence[CellResult]) -> int:
        """How many cells of the sweep are not finished, failed ones included and stopped ones not."""
        known = set(self.labels or {}) - {result.id for result in finished}
        described = self.cells - len(self.stopped) - sum(result.identity.stage != "parent" for result in finished)
        return max(len(known), described)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Reads the manifest of a sweep's folder.

        Raises:
            BadRequestError: the folder holds no sweep.
        """
        require_sweep(folder)
        content = yaml.safe_load((folder / MANIFEST).read_text())
        return cls(
            **content
            | {
                "gaps": [Gap(*row) for row in content["gaps"]],
                "failed": [FailedCell(*row) for row in content["failed"]],
                "stopped": [StoppedTrial(*row) for row in content.get("stopped", [])],
                "searched": [SearchedLabel(*row) for row in content["searched"]],
                "splits": {name: SplitSize(**size) for name, size in content.get("splits", {}).items()},
                "published": [PublishedPoint(**point) for point in content["published"]],
                "units": BudgetUnits(**content["units"]) if content.get("units") else None,
            }
        )
