"""Values from papers, listed below the curve. The curve's figure draws those with a parameter count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from adapad_ray.report.published import PublishedPoint, of_task
from adapad_ray.report.section import Section
from adapad_ray.report.style.blocks import Block, Table, note
from adapad_ray.report.style.formatting import count, metric_name, share
from adapad_ray.report.sweep_results import SweepResults


@dataclass(frozen=True)
class Published(Section):
    """The published points of the sweep's task."""

    heading = "Published values"

    points: list[PublishedPoint]
    metric: str

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self | None:
        points = of_task(sweep.inputs.published, sweep.results[0].identity.task)
        return cls(points, metric_name(sweep.metric)) if points else None

    def words(self) -> Iterator[Block]:
        yield Table(
            ["method", "parameters", "value", "metric", "source"],
            [
                [point.label, count(point.parameters), share(point.value), point.metric or self.metric, point.source]
                for point in self.points
            ],
            styles={3: "text", 4: "wrap"},
        )
        yield note(
            "Quoted from papers. Points with a parameter count and the sweep's metric are drawn as diamonds. Seeds, "
            "settings and code differ, so no test compares these values with the rows above."
        )
