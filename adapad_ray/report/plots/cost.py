"""Cost against accuracy, interactive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from adapad_ray.report.plots.plot import (
    Choice,
    Control,
    Plot,
    Spec,
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
from adapad_ray.report.style.formatting import metric_name

COSTS = {
    "train_seconds": "train seconds",
    "train_flops": "train FLOPs",
    "peak_memory_bytes": "peak memory, bytes",
    "adapter_bytes": "size on disk, bytes",
}
"""Columns of the curve's table, and their titles."""
CAPTION = (
    "One mark per trained model, as mean over seeds; bars are 95 % intervals over seeds and items. Up and to the left "
    "is better. Models that share a training (of post-hoc methods) stand at the cost of that training."
)


def cost_plot(models: Sequence[dict[str, Any]], labels: Sequence[str], metric: str) -> Plot:
    """A metric against what training cost; `models` are rows of the curve's table, colours are by `labels`."""
    name = metric_name(metric)
    columns = ["label", "budget", "parameters", "n_seeds", *COSTS]
    columns += [f"{split}_{value}" for split in ("test", "validation") for value in ("mean", "low", "high")]
    costs = {column: title for column, title in COSTS.items() if any(row[column] > 0 for row in models)}
    tooltip = hover(
        ("label", "method"),
        ("budget", "budget", ","),
        ("parameters", "deployed parameters", ",.0f"),
        ("value", name, ".3f"),
        ("interval", "95 % interval"),
        ("n_seeds", "seeds", ""),
        *((column, title, ".3s") for column, title in costs.items()),
    )
    spec: Spec = {
        "width": "container",
        "height": 320,
        "autosize": {"type": "fit", "contains": "padding"},
        "data": {"name": "models"},
        "params": [parameter(control) for control in ("labels", "cost", "split", "axis")],
        "transform": [
            {"filter": checked("labels", "datum.label")},
            {"calculate": "datum[cost]", "as": "cost"},
            {"filter": "isValid(datum.cost) && (axis == 'linear' || datum.cost > 0)"},
            {"calculate": "datum[split + '_mean']", "as": "value"},
            {"calculate": "datum[split + '_low']", "as": "low"},
            {"calculate": "datum[split + '_high']", "as": "high"},
            {"calculate": "format(datum.low, '.3f') + ' – ' + format(datum.high, '.3f')", "as": "interval"},
        ],
        "encoding": {
            "x": {
                "field": "cost",
                "type": "quantitative",
                "title": by_choice("cost", costs),
                "axis": {"format": ".3~s", "grid": False},
                "scale": log_or_linear(),
            },
            "color": colour_of_label(labels),
        },
        "layer": [
            {
                "mark": {"type": "rule", "opacity": 0.35},
                "encoding": {"y": {"field": "low", "type": "quantitative"}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                "encoding": {
                    "y": {
                        "field": "value",
                        "type": "quantitative",
                        "scale": {"zero": False},
                        "title": by_choice("split", splits_of(name)),
                    },
                    "shape": shape_of_label(labels),
                    "tooltip": tooltip,
                },
            },
        ],
    }
    controls: list[Control] = [
        label_switches(labels),
        Choice("cost", "cost", costs),
        Choice("split", "metric", splits_of(name)),
        scale_choice("cost axis"),
    ]
    return Plot(spec, {"models": pd.DataFrame(models)[columns]}, controls, CAPTION)
