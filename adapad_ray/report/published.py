"""Values that papers report, shown beside the sweep's own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, field_validator

_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kMB]?)")
_UNITS = {"": 1, "k": 1_000, "M": 1_000_000, "B": 1_000_000_000}


class PublishedPoint(BaseModel):
    """A value from a paper. It is quoted and never enters a computation: seeds, settings and often data differ."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    label: str = Field(min_length=1, max_length=60)
    """Name of the method in the paper. If it is a label of the sweep, the point is drawn in that label's colour."""
    value: float
    """In the unit of the sweep's metric: 0.7226, not 72.26."""
    source: str = Field(min_length=1)
    """Paper and table."""
    parameters: int | None = Field(default=None, ge=1)
    """Adapter parameters, also as printed (`0.34M`). Without them the point is listed but not drawn."""
    task: str | None = None
    """Task of the sweep that the point belongs to; None: every task that the file is used with."""
    metric: str | None = None
    """The paper's metric if it differs from the sweep's; then the point is listed but not drawn."""

    @field_validator("parameters", mode="before")
    @classmethod
    def _parse_count(cls, count: object) -> object:
        match = _COUNT.fullmatch(count) if isinstance(count, str) else None
        return round(float(match[1]) * _UNITS[match[2]]) if match else count


def of_task(points: Sequence[PublishedPoint], task: str) -> list[PublishedPoint]:
    """The points that belong to a task, in the order of the file."""
    return [point for point in points if point.task in (None, task)]


def comparable(points: Sequence[PublishedPoint], metric: str) -> list[PublishedPoint]:
    """The points that can be drawn in a curve of `metric` against parameters."""
    return [point for point in points if point.parameters is not None and point.metric in (None, metric)]
