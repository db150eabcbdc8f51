"""The rank of every module, and an interactive heat map of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from adapad_ray.report.plots.plot import Choice, Plot, Spec, columns_of, hover, parameter
from adapad_ray.report.style.colours import INK, LIGHT
from adapad_ray.results import CellResult

CAPTION = (
    "One square per module: its rank, as mean over seeds, with layers from left to right. All panels have the same "
    "colour scale, from 0 to the largest rank of the sweep. Empty squares are modules that the method does not adapt."
)
_MANY_LAYERS = 16
"""With more layers, squares are too small for numbers."""


@dataclass(frozen=True)
class RankMap:
    """The ranks of one label at one budget."""

    label: str
    budget: int
    layers: list[str]
    """Layer numbers; `–` for modules outside of layers."""
    types: list[str]
    """Module types, in the order of the model."""
    ranks: np.ndarray
    """Mean over seeds, `[types, layers]`; NaN where the model has no such module."""


def rank_maps(cells: Sequence[CellResult]) -> list[RankMap]:
    """The rank maps of all labels and budgets; methods without budget or adapted modules have none."""
    groups: dict[tuple[str, int], list[CellResult]] = {}
    for cell in cells:
        if cell.identity.budget is not None and cell.identity.target_modules:
            groups.setdefault((cell.identity.label, cell.identity.budget), []).append(cell)
    return [_rank_map(label, budget, group) for (label, budget), group in sorted(groups.items())]


def layer_and_type(path: str) -> tuple[int | None, str]:
    """Splits a module path: `bert.encoder.layer.3.attention.self.query` → (3, `attention.self.query`)."""
    match = re.fullmatch(r"(?:.*?\.)??(\d+)\.(.+)", path)
    return (int(match[1]), match[2]) if match else (None, path)


def _rank_map(label: str, budget: int, cells: Sequence[CellResult]) -> RankMap:
    modules = cells[0].identity.target_modules
    split = [layer_and_type(module) for module in modules]
    layers = sorted({layer for layer, _ in split if layer is not None})
    names = [str(layer) for layer in layers] + ["–"] * any(layer is None for layer, _ in split)
    types = list(dict.fromkeys(module_type for _, module_type in split))
    ranks = np.full((len(types), len(names)), math.nan)
    for module, (layer, module_type) in zip(modules, split, strict=True):
        column = len(layers) if layer is None else layers.index(layer)
        ranks[types.index(module_type), column] = np.mean([cell.final.ranks.get(module, 0) for cell in cells])
    return RankMap(label, budget, names, types, ranks)


def ranks_plot(maps: Sequence[RankMap]) -> Plot:
    """Heat maps on one colour scale: one label at all its budgets, or all labels at one budget."""
    layers = sorted({layer for panel in maps for layer in panel.layers}, key=lambda name: (name == "–", name.zfill(9)))
    types = list(dict.fromkeys(name for panel in maps for name in panel.types))
    labels = list(dict.fromkeys(panel.label for panel in maps))
    budgets = sorted({panel.budget for panel in maps})
    shown = {f"label {label}": f"{label}, all budgets" for label in labels}
    if len(labels) > 1:
        shown |= {f"budget {budget}": f"{budget:,} parameters, all methods" for budget in budgets}
    step = 26 if len(layers) <= _MANY_LAYERS else 12
    position = {"scale": {"paddingInner": 0.06}, "axis": {"domain": False, "ticks": False, "labelAngle": 0}}
    square = {
        "x": {"field": "layer", "type": "ordinal", "sort": layers, "title": "layer", **position},
        "y": {"field": "type", "type": "ordinal", "sort": types, "title": None, **position},
    }
    top = max(1.0, *(float(np.nanmax(panel.ranks)) for panel in maps))
    colour = {
        "field": "rank",
        "type": "quantitative",
        "scale": {"domain": [0, top], "range": ["#f1f5fa", "#08306b"], "interpolate": "lab"},
        "legend": {"title": "rank", "orient": "top", "gradientLength": 160, "tickCount": 4},
    }
    tooltip = hover(
        ("label", "method"), ("budget", "budget", ","), ("type", "module"), ("layer", "layer"), ("rank", "rank", ".2~f")
    )
    squares: list[Spec] = [{"mark": "rect", "encoding": {"color": colour, "tooltip": tooltip}}]
    if len(layers) <= _MANY_LAYERS:
        shades = [("datum.rank == 0", LIGHT), (f"datum.rank > {0.5 * top}", "white")]
        ink = {"condition": [{"test": test, "value": shade} for test, shade in shades], "value": INK}
        text = {"field": "rank", "type": "quantitative", "format": ".1~f"}
        squares.append({"mark": {"type": "text", "fontSize": 10}, "encoding": {"text": text, "color": ink}})
    spec: Spec = {
        "data": {"name": "ranks"},
        "params": [parameter("shown")],
        "transform": [
            {"filter": "shown == 'label ' + datum.label || shown == 'budget ' + datum.budget"},
            {"calculate": "datum.label + ' · ' + format(datum.budget, ',')", "as": "panel"},
            {"flatten": ["module", "rank"]},
            {
                "lookup": "module",
                "from": {"data": {"name": "modules"}, "key": "module", "fields": ["type", "layer"]},
            },
        ],
        "facet": {"field": "panel", "type": "nominal", "title": None, "sort": {"field": "order", "op": "min"}},
        "columns": columns_of(step * len(layers) + 24),
        "spacing": 24,
        "spec": {"width": {"step": step}, "height": {"step": 20}, "encoding": square, "layer": squares},
    }
    modules = [(kind, layer) for kind in types for layer in layers]
    data = {
        "ranks": pd.DataFrame([_row(panel, order, modules) for order, panel in enumerate(maps)]),
        "modules": pd.DataFrame(
            [{"module": i, "type": kind, "layer": layer} for i, (kind, layer) in enumerate(modules)]
        ),
    }
    return Plot(spec, data, [Choice("shown", "panels", shown)], CAPTION)


def _row(panel: RankMap, order: int, modules: Sequence[tuple[str, str]]) -> dict[str, object]:
    """The adapted modules of a panel as positions in `modules`, with their ranks."""
    present = {
        (kind, layer): float(panel.ranks[row, column])
        for row, kind in enumerate(panel.types)
        for column, layer in enumerate(panel.layers)
        if not math.isnan(panel.ranks[row, column])
    }
    indices = [i for i, module in enumerate(modules) if module in present]
    ranks = [present[modules[i]] for i in indices]
    return {"label": panel.label, "budget": panel.budget, "order": order, "module": indices, "rank": ranks}
