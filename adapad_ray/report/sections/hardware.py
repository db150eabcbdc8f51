"""Cells of one curve that were computed on different hardware."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from adapad_ray.report.section import Section
from adapad_ray.report.style.blocks import Block, Table, Text, note
from adapad_ray.report.sweep_results import SweepResults


@dataclass(frozen=True)
class Hardware(Section):
    """How many cells of each label ran where; left out where the whole curve ran on one kind of hardware."""

    heading = "Different hardware"

    cells: dict[tuple[str, str], int]
    """(label, accelerator) → cells of the curve."""

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self | None:
        cells = Counter((r.identity.label, r.versions.get("accelerator", "not recorded")) for r in sweep.curves.results)
        return cls(dict(sorted(cells.items()))) if len({accelerator for _, accelerator in cells}) > 1 else None

    def words(self) -> Iterator[Block]:
        yield note(
            "The cells of this curve ran on different hardware, so equal cells agree up to rounding and not bitwise. "
            "Do not compare their seconds and memory."
        )
        rows: list[list[Text | int]] = [[label, where, cells] for (label, where), cells in self.cells.items()]
        yield Table(["method", "accelerator", "cells"], rows, styles={1: "text"})
