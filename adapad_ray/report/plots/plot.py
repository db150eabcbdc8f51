"""What an interactive chart is. `web/report.js` shows it on the page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from markupsafe import Markup

from adapad_ray.report.style.blocks import Text
from adapad_ray.report.style.colours import GREY, GRID, INK, PALETTE

Spec = dict[str, Any]
"""A Vega-Lite specification or a part of one."""

SHAPES = {
    "circle": "●",
    "square": "■",
    "triangle-up": "▲",
    "diamond": "◆",
    "triangle-down": "▼",
    "cross": "✚",
    "triangle-right": "▶",
    "triangle-left": "◀",
}
"""Vega's shapes, and the same as characters."""
CONFIG: Spec = {
    "background": "white",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif",
    "view": {"stroke": None},
    "axis": {
        "domainColor": GREY,
        "gridColor": GRID,
        "labelColor": GREY,
        "labelFontSize": 12,
        "labelOverlap": "greedy",
        "tickColor": GREY,
        "titleColor": INK,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "axisX": {"grid": False},
    "legend": {"labelColor": INK, "labelFontSize": 12, "titleColor": GREY, "titleFontWeight": "normal"},
    "header": {"labelAnchor": "start", "labelColor": INK, "labelFontSize": 12},
}
"""How all interactive charts look."""


@dataclass(frozen=True)
class Choice:
    """A menu: one of several values."""

    name: str
    title: str
    options: Mapping[str, str]
    """Text of every value; the first is chosen at the start."""


@dataclass(frozen=True)
class Switches:
    """Checkboxes: any of several values."""

    name: str
    title: str
    options: Mapping[str, str]
    """Text of every value."""
    marks: Mapping[str, Markup] = field(default_factory=dict)
    """How the chart draws a value, as a sign beside its checkbox."""
    off: frozenset[str] = frozenset()
    """Values that are not checked at the start."""


Control = Choice | Switches


@dataclass(frozen=True)
class Plot:
    """An interactive chart: a Vega-Lite specification that may depend on controls.

    In `spec`, `value_of(name)` stands for what a control is set to, `by_choice(name, options)` for the part that
    belongs to it, and `columns_of(width)` for the number of panels that fit beside each other. Data are tables, by the
    name that the specification calls them.
    """

    spec: Spec
    data: Mapping[str, pd.DataFrame]
    controls: Sequence[Control]
    caption: Text
    """Names every mark of the chart."""

    @property
    def json(self) -> Markup:
        """What the page's script needs, safe inside a script element."""
        content = {
            "spec": {"config": CONFIG, **self.spec},
            "data": {name: _columns(table) for name, table in self.data.items()},
        }
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        # Inside strings alone, where JSON reads the same character. A label cannot end the element.
        return Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))


def value_of(name: str) -> Spec:
    """The value of a `Choice`, or the list of checked values of `Switches`."""
    return {"$value": name}


def by_choice(name: str, options: Mapping[str, Any]) -> Spec:
    """The part of the specification that belongs to the value of a `Choice`."""
    return {"$choice": name, "options": dict(options)}


def log_or_linear(**linear: Any) -> Spec:
    """The scale that belongs to the value of the `Choice` of `scale_choice`; `linear` adds to the linear one."""
    common = {"nice": False, "padding": 25}
    return by_choice("axis", {"log": {"type": "log", **common}, "linear": {"type": "linear", **common, **linear}})


def scale_choice(title: str) -> Choice:
    """The choice between a log and a linear axis, named `axis`."""
    return Choice("axis", title, {"log": "log", "linear": "linear"})


def splits_of(metric: str) -> dict[str, str]:
    """The splits on which a metric, named as people read it, can be shown, and the names of their values."""
    return {"test": f"test {metric}", "validation": f"validation {metric}"}


def columns_of(width: int) -> Spec:
    """How many panels of this width (pixels) fit beside each other."""
    return {"$columns": width}


def checked(name: str, value: str) -> str:
    """Vega expression: whether a value of `Switches` is checked; needs `parameter(name)` in the specification."""
    return f"indexof({name}, {value}) >= 0"


def parameter(name: str) -> Spec:
    """Makes the value of a control known to Vega expressions, for `params`."""
    return {"name": name, "value": value_of(name)}


def label_colours(labels: Sequence[str]) -> dict[str, str]:
    """Colour of every label; the same as in the static figure of the curve."""
    return {label: PALETTE[i % len(PALETTE)] for i, label in enumerate(labels)}


def label_shapes(labels: Sequence[str]) -> dict[str, str]:
    """Shape of every label. The first 64 labels have different pairs of colour and shape."""
    shapes = list(SHAPES)
    return {label: shapes[(i + i // len(shapes)) % len(shapes)] for i, label in enumerate(labels)}


def label_switches(labels: Sequence[str], title: str = "methods") -> Switches:
    """Checkboxes that show and hide labels, with their marks."""
    colours, shapes = label_colours(labels), label_shapes(labels)
    sign = Markup('<span style="color:{}">{}</span>')
    marks = {label: sign.format(colours[label], SHAPES[shapes[label]]) for label in labels}
    return Switches("labels", title, {label: label for label in labels}, marks)


def colour_of_label(labels: Sequence[str]) -> Spec:
    """Encoding of the colour by label, without a legend: the checkboxes are one."""
    colours = label_colours(labels)
    return {"field": "label", "scale": {"domain": list(colours), "range": list(colours.values())}, "legend": None}


def shape_of_label(labels: Sequence[str]) -> Spec:
    """Encoding of the shape by label, without a legend."""
    shapes = label_shapes(labels)
    return {"field": "label", "scale": {"domain": list(shapes), "range": list(shapes.values())}, "legend": None}


def hover(*fields: tuple[str, ...]) -> list[Spec]:
    """Encoding of the tooltip: (field, title) for text, (field, title, D3 format) for numbers."""
    return [
        {"field": name, "title": title, "type": "quantitative", "format": form[0]}
        if form
        else {"field": name, "title": title, "type": "nominal"}
        for name, title, *form in fields
    ]


def _columns(table: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): [_plain(value) for value in table[name]] for name in table}


def _plain(value: Any) -> Any:
    """A value as JSON holds it: floats with six digits, None for missing ones."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or value is pd.NA:
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
