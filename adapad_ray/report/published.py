"""Points that a paper has printed, to stand beside our own: what they are, and how they are drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kMB]?)")
_UNITS = {"": 1, "k": 1_000, "M": 1_000_000, "B": 1_000_000_000}
_INK, _GREY = "#202124", "#5f6368"


class PublishedPoint(BaseModel):
    """One figure of a paper. It is quoted, never computed with: other seeds, settings and often other data."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    label: str = Field(min_length=1, max_length=60)
    """The method as the paper calls it. A label of the sweep lends the point its colour."""
    value: float
    """In the unit of the sweep's metric: 0.7226, not 72.26."""
    source: str = Field(min_length=1)
    """Paper and table."""
    parameters: int | None = Field(default=None, ge=1)
    """Adapter parameters, also as printed (`0.34M`). Without them the point is listed and not drawn."""
    task: str | None = None
    """The sweep's task that it belongs to, where one file serves several."""
    metric: str | None = None
    """What was measured, where that is not the sweep's metric: then the point is listed and not drawn."""

    @field_validator("parameters", mode="before")
    @classmethod
    def _as_printed(cls, count: object) -> object:
        match = _COUNT.fullmatch(count) if isinstance(count, str) else None
        return round(float(match[1]) * _UNITS[match[2]]) if match else count


def of_task(points: Sequence[PublishedPoint], task: str) -> list[PublishedPoint]:
    """The points that belong to a task, in the file's order."""
    return [point for point in points if point.task in (None, task)]


def comparable(points: Sequence[PublishedPoint], metric: str) -> list[PublishedPoint]:
    """Those of `points` that have a place on a curve of `metric` against parameters."""
    return [point for point in points if point.parameters is not None and point.metric in (None, metric)]


def draw_published(axes: Axes, points: Sequence[PublishedPoint], colours: Mapping[str, str]) -> None:
    """Hollow diamonds with the paper's label beside them; `colours` are those of the sweep's labels."""
    for point in points:
        if point.parameters is None:
            continue
        colour = colours.get(point.label, _INK)
        style: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.4}
        axes.plot(point.parameters, point.value, "D", markersize=7, zorder=4, **style)
        axes.annotate(
            point.label,
            (point.parameters, point.value),
            xytext=(7, -3),
            textcoords="offset points",
            fontsize=8,
            color=_GREY,
            zorder=4,
        )


def show_published(axes: Axes, points: Sequence[PublishedPoint]) -> None:
    """Widen the axis of parameters until it shows every point."""
    counts = [point.parameters for point in points if point.parameters is not None]
    if counts:
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, 0.8 * min(counts)), max(high, 1.6 * max(counts)))
