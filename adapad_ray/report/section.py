"""What a section of the report is; `sections/` holds one file a section, and README.md shows how to add one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from adapad_ray.report.plots.plot import Plot
from adapad_ray.report.style.blocks import Block
from adapad_ray.report.sweep_results import SweepResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Chart:
    """A figure of a section: static, and interactive on the page where it has a plot."""

    stem: str
    """Name of its files in the sweep's folder, without `.png` and `.svg`."""
    description: str
    """One sentence for screen readers."""
    figure: Figure | None
    """None for a chart of the page alone."""
    plot: Plot | None = None


class Section(ABC):
    """One part of the report.

    `build_report` calls `compute` once, then `figures`, `files` and `words` of what it returned. The page shows the
    heading, the figures and the words in this order.
    """

    heading: ClassVar[str] = ""
    """Title on the page; empty for none."""

    @classmethod
    @abstractmethod
    def compute(cls, sweep: SweepResults) -> Self | None:
        """The section with its data, or None to leave it out of this report."""

    def figures(self) -> Iterable[Chart]:
        """The figures, drawn in the style of the report (`style.drawing.STYLE` is active)."""
        return ()

    def files(self) -> Mapping[str, str]:
        """Text files to write into the sweep's folder: name → content."""
        return {}

    def words(self) -> Iterable[Block]:
        """Paragraphs, lists and tables (`style.blocks`)."""
        return ()
