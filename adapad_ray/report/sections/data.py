"""Rows per split and class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from adapad_ray.report.section import Section
from adapad_ray.report.style.blocks import Block, Bullets, Table
from adapad_ray.report.sweep_results import SweepResults
from adapad_ray.tasks import SplitSize


@dataclass(frozen=True)
class Data(Section):
    """How many rows the splits have, where they come from, and what is suspicious about them."""

    heading = "Data"

    splits: Mapping[str, SplitSize]
    warnings: Sequence[str]

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self | None:
        splits = sweep.inputs.splits
        return cls(splits, sweep.inputs.warnings) if splits else None

    def words(self) -> Iterator[Block]:
        rows = [
            [
                name,
                size.used_rows,
                size.classes_in_words,
                "carved from the training data" if size.carved else "given",
            ]
            for name, size in self.splits.items()
        ]
        yield Table(["split", "rows", "rows per class", "origin"], rows, styles={2: "wrap", 3: "text"})
        if self.warnings:
            yield Bullets(list(self.warnings))
