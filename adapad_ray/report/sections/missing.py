"""The points that the curve lacks: gaps and failed cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from adapad_ray.report.inputs import FailedCell, Gap
from adapad_ray.report.section import Section
from adapad_ray.report.style.blocks import Block, Heading, Table, Text
from adapad_ray.report.style.formatting import count
from adapad_ray.report.sweep_results import SweepResults


@dataclass(frozen=True)
class Missing(Section):
    """Gaps, which cannot exist, and failed cells, with their reasons."""

    gaps: Sequence[Gap]
    failed: Sequence[FailedCell]

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self | None:
        gaps, failed = sweep.inputs.gaps, sweep.inputs.failed
        return cls(gaps, failed) if gaps or failed else None

    def words(self) -> Iterator[Block]:
        rows: list[list[Text | int]]
        if self.gaps:
            yield Heading("Gaps")
            rows = [[gap.label, count(gap.budget), gap.reason] for gap in self.gaps]
            yield Table(["method", "budget", "why it cannot exist"], rows, styles={2: "wrap"})
        if self.failed:
            yield Heading("Failed cells")
            rows = [[cell.label, count(cell.budget), cell.seed, cell.reason] for cell in self.failed]
            yield Table(["method", "budget", "seed", "reason"], rows, styles={3: "wrap"})
