"""The curve, interactive: a metric against deployed parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from adapad_ray.report.curves import PointKey
from adapad_ray.report.plots.plot import (
    Choice,
    Control,
    Plot,
    Spec,
    Switches,
    by_choice,
    checked,
    colour_of_label,
    hover,
    label_switches,
    log_or_linear,
    parameter,
    scale_choice,
    shape_of_label,
    splits_of,
)
from adapad_ray.report.published import PublishedPoint
from adapad_ray.report.recommendation import FROZEN
from adapad_ray.report.style.colours import GREY, INK
from adapad_ray.report.style.formatting import metric_name

_POINT: tuple[tuple[str, ...], ...] = (
    ("model", "model"),
    ("budget", "budget", ","),
    ("size", "deployed parameters"),
)
_COST: tuple[tuple[str, ...], ...] = (
    ("n_seeds", "seeds", ""),
    ("mean_rank", "mean rank", ".2f"),
    ("train_seconds", "train seconds", ".3s"),
    ("train_flops", "train FLOPs", ".3s"),
    ("memory", "peak memory"),
)
_CAPTIONS = {
    "prefixes": "Hollow marks are prefixes: smaller models that were cut from a trained one, on the thin dashed line.",
    "intervals": "Bars are 95 % intervals over seeds and items.",
    "references": "Grey dashed lines are methods without a budget.",
    "published": "Diamonds are published values, quoted from papers.",
}
_MANY = 300
"""With more prefixes they are drawn smaller."""


def curve_points(table: pd.DataFrame, recommended: PointKey | None) -> pd.DataFrame:
    """The rows of `Curves.table` with what the chart adds: names, shifts, and which of them is ringed."""
    labels = adapted_labels(table)
    step = min(0.02, 0.12 / max(1, len(labels)))
    shift = {label: 1 + step * (i - (len(labels) - 1) / 2) for i, label in enumerate(labels)}
    keys = [_key(row) for row in table.to_dict("records")]
    return table.assign(
        model=[_name(key, method) for key, method in zip(keys, table["method"], strict=True)],
        shift=[shift.get(label, 1.0) for label in table["label"]],
        recommended=[key == recommended for key in keys],
    )


def adapted_labels(table: pd.DataFrame) -> list[str]:
    """Labels with a budget, in the order of the table."""
    return list(dict.fromkeys(table[table["budget"].notna() & (table["parameters"] > 0)]["label"]))


def curve_plot(points: pd.DataFrame, metric: str, others: Sequence[str], published: Sequence[PublishedPoint]) -> Plot:
    """A metric against deployed parameters; `points` are those of `curve_points`.

    Args:
        points: with the columns `<choice>_mean` and, for intervals, `<choice>_low` and `<choice>_high`.
        metric: the metric that decides; its choices are `test` and `validation`.
        others: further choices, such as `test f1`.
        published: points to show as diamonds.
    """
    name = metric_name(metric)
    choices = splits_of(name) | {o: metric_name(o) for o in others}
    labels = adapted_labels(points)
    show = {"intervals": "95 % intervals"}
    if (points["kind"] == "prefix").any():
        show = {"prefixes": "prefixes"} | show
    if points["budget"].isna().any():
        show["references"] = "methods without a budget"
    if published:
        show["published"] = "published values"
    prefixes = int((points["kind"] == "prefix").sum())
    layers = [_intervals(), _lines(), *_references(), *_marks(name, shape_of_label(labels), many=prefixes > _MANY)]
    if prefixes:
        layers.insert(1, _prefix_lines(many=prefixes > _MANY))
    layers += [_ring(), *(_published(name) if published else ())]
    sizes = [*points[points["parameters"] > 0]["parameters"], *(p.parameters for p in published)]
    spec: Spec = {
        "width": "container",
        "height": 400,
        "autosize": {"type": "fit", "contains": "padding"},
        "data": {"name": "points"},
        "params": [parameter(control) for control in ("labels", "show", "metric", "axis")],
        "transform": [
            {"calculate": "datum[metric + '_mean']", "as": "value"},
            {"calculate": "datum[metric + '_low']", "as": "low"},
            {"calculate": "datum[metric + '_high']", "as": "high"},
            {"calculate": "datum.parameters * (axis == 'log' ? datum.shift : 1)", "as": "x"},
            {"calculate": _SIZE, "as": "size"},
            {"calculate": "format(datum.peak_memory_bytes, '.3s') + 'B'", "as": "memory"},
            {"calculate": _interval("test"), "as": "test_interval"},
            {"calculate": _interval("validation"), "as": "validation_interval"},
        ],
        "encoding": {
            "y": {
                "field": "value",
                "type": "quantitative",
                "scale": {"zero": False, "nice": True},
                "title": by_choice("metric", choices),
            },
            "x": _x_axis(sorted({int(budget) for budget in points["budget"].dropna()}), sizes),
            "color": colour_of_label(labels),
        },
        "layer": layers,
    }
    controls: list[Control] = [
        label_switches(labels),
        Switches("show", "show", show),
        Choice("metric", "metric", choices),
        scale_choice("parameter axis"),
    ]
    papers = pd.DataFrame(
        [(p.label, p.parameters, p.value, p.source) for p in published],
        columns=["label", "parameters", "value", "source"],
    )
    caption = [f"Filled marks are trained models; {_recommended(points)}.", *(_CAPTIONS[mark] for mark in show)]
    if len(labels) > 1:
        caption.append("On the log axis, methods are shifted by up to 6 % so that their bars do not overlap.")
    return Plot(spec, {"points": points, "published": papers}, controls, " ".join(caption))


_SIZE = (
    "datum.parameters_low == datum.parameters_high ? format(datum.parameters, ',.0f') : format(datum.parameters, "
    "',.0f') + ' (' + format(datum.parameters_low, ',') + '–' + format(datum.parameters_high, ',') + ')'"
)
_HAS_BUDGET = f"isValid(datum.budget) && datum.parameters > 0 && {checked('labels', 'datum.label')}"
_FINAL = f"{_HAS_BUDGET} && datum.kind == 'final'"
_INTERVALS, _PREFIXES, _REFERENCES, _PUBLISHED = (
    checked("show", f"'{name}'") for name in ("intervals", "prefixes", "references", "published")
)


_X: Spec = {"field": "x", "type": "quantitative"}


def _x_axis(budgets: Sequence[int], sizes: Sequence[float]) -> Spec:
    """The axis of all layers: log, with ticks at the budgets if these span most of the sizes, or linear."""
    spanned = len(budgets) > 1 and budgets[-1] / budgets[0] > (max(sizes) / min(sizes)) ** 0.6
    ticks = [b for i, b in enumerate(budgets) if i == 0 or b / budgets[i - 1] > 1.12]
    axis = {"format": ".3~s", "grid": False}
    return {
        **_X,
        "title": "deployed adapter parameters",
        "scale": log_or_linear(zero=True),
        "axis": by_choice("axis", {"log": {**axis, "values": ticks} if spanned else axis, "linear": axis}),
    }


def _interval(split: str) -> str:
    return f"format(datum.{split}_low, '.3f') + ' – ' + format(datum.{split}_high, '.3f')"


def _tooltip(name: str) -> list[Spec]:
    scores: list[tuple[str, ...]] = []
    for split in ("test", "validation"):
        scores += [(f"{split}_mean", f"{split} {name}", ".3f"), (f"{split}_interval", f"{split}, 95 % interval")]
    return hover(*_POINT, *scores, *_COST)


def _layer(mark: Spec, *filters: str, **encoding: Any) -> Spec:
    return {"mark": mark, "transform": [{"filter": text} for text in filters], "encoding": encoding}


def _intervals() -> Spec:
    y = {"field": "low", "type": "quantitative"}
    return _layer(
        {"type": "rule", "opacity": 0.5, "strokeWidth": 1.3},
        _FINAL,
        f"{_INTERVALS} && isValid(datum.low)",
        x=_X,
        y=y,
        y2={"field": "high"},
    )


def _prefix_lines(*, many: bool) -> Spec:
    return _layer(
        {"type": "line", "strokeWidth": 0.8, "strokeDash": [4, 2], "opacity": 0.3 if many else 0.75},
        _HAS_BUDGET,
        _PREFIXES,
        x=_X,
        order={"field": "parameters"},
        detail={"field": "budget"},
    )


def _lines() -> Spec:
    return _layer({"type": "line", "strokeWidth": 2}, _FINAL, x=_X, order={"field": "parameters"})


def _marks(name: str, shape: Spec, *, many: bool) -> list[Spec]:
    prefix = {
        "type": "point",
        "size": 16 if many else 40,
        "strokeWidth": 1 if many else 1.4,
        "fill": "white",
        "opacity": 1,
    }
    final = {"type": "point", "size": 80, "filled": True, "opacity": 1}
    kind = {"shape": shape, "tooltip": _tooltip(name)}
    return [
        _layer(prefix, _HAS_BUDGET, "datum.kind == 'prefix'", _PREFIXES, x=_X, **kind),
        _layer(final, _FINAL, x=_X, **kind),
    ]


def _references() -> list[Spec]:
    filters = (f"!isValid(datum.budget) && datum.kind == 'final' && {_REFERENCES}",)
    rule = {"type": "rule", "strokeDash": [5, 3], "strokeWidth": 1.3}
    text = {"type": "text", "align": "right", "baseline": "bottom", "dx": -4, "dy": -3, "fontSize": 12}
    width = {"value": {"expr": "width"}}
    grey = {"value": GREY}
    return [
        _layer(rule, *filters, x=None, color=grey, tooltip=_tooltip("")),
        _layer(text, *filters, x=width, color=grey, text={"field": "model"}),
    ]


def _recommended(points: pd.DataFrame) -> str:
    """The words about the ring, which only a model with a size has."""
    ringed = points[points["recommended"] & points["budget"].notna() & (points["parameters"] > 0)]
    return "the ring is the recommended one" if len(ringed) else "no adapter is recommended, so none has a ring"


def _ring() -> Spec:
    ring = {"type": "point", "shape": "circle", "size": 330, "strokeWidth": 1.8, "filled": False}
    return _layer(ring, _HAS_BUDGET, "datum.recommended", x=_X, color={"value": INK})


def _published(name: str) -> list[Spec]:
    """Only beside the sweep's own test metric."""
    shown = f"metric == 'test' && {_PUBLISHED}"
    tooltip = hover(
        ("label", "published"), ("parameters", "parameters", ","), ("value", name, ".3f"), ("source", "source")
    )
    x = {**_X, "field": "parameters"}
    diamond = {"type": "point", "shape": "diamond", "size": 90, "strokeWidth": 1.5, "fill": "white"}
    text = {"type": "text", "dy": -13, "limit": 160, "fontSize": 11, "color": GREY}
    data = {"data": {"name": "published"}}
    return [
        {**data, **_layer(diamond, shown, x=x, color={"value": INK}, tooltip=tooltip)},
        {**data, **_layer(text, shown, x=x, color={"value": GREY}, text={"field": "label"})},
    ]


def _name(key: PointKey, method: str) -> str:
    if method == FROZEN:
        return "frozen backbone"
    return key.label if key.prefix is None else f"{key.label}, cut to {key.prefix}"


def _key(row: dict[Any, Any]) -> PointKey:
    budget, prefix = (None if pd.isna(row[name]) else int(row[name]) for name in ("budget", "prefix"))
    return PointKey(row["label"], budget, row["kind"], prefix)
