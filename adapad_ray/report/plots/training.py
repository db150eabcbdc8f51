"""What happened during training, interactive: growth of the parameter count, and losses of every lane."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from adapad_ray.report.plots.plot import Choice, Plot, Spec, by_choice, hover, parameter
from adapad_ray.report.style.colours import PALETTE
from adapad_ray.results import CellResult
from adapad_ray.training.record import lane_name
from adapad_ray.training.round_log import load_rounds

GROWTH_CAPTION = (
    "One line per cell, coloured by its budget: the adapter parameters that are charged to the budget after each "
    "optimizer step. Lines of one colour are seeds."
)
LOSS_CAPTION = (
    "One line per lane and seed: training loss, as mean over a round. Lane k trains component k of every module with "
    "components 1 to k acting; methods with one lane have lane 1. Long trainings are shown as means of several rounds."
)
_VALUES = 20_000
"""Most values of all losses together: 0.3 MB on the page."""
_VIEW: Spec = {"width": "container", "height": 260, "autosize": {"type": "fit", "contains": "padding"}}
_STEPS: Spec = {"field": "step", "type": "quantitative", "title": "optimizer step"}


def growth_plot(cells: Sequence[CellResult]) -> Plot:
    """Parameters in use over optimizer steps, of the cells of one label at a time."""
    labels = list(dict.fromkeys(cell.identity.label for cell in cells))
    budgets = sorted({cell.identity.budget or 0 for cell in cells})
    colour: Spec = {"field": "budget", "type": "ordinal", "scale": {"range": list(PALETTE[: len(budgets)])}}
    if len(budgets) > len(PALETTE):
        colour = {"field": "budget", "type": "quantitative", "scale": {"type": "log", "scheme": "viridis"}}
    spec: Spec = {
        **_VIEW,
        "data": {"name": "growth"},
        "params": [parameter("label"), parameter("unit")],
        "transform": [
            {"filter": "datum.label == label"},
            {"flatten": ["step", "spent"]},
            {"calculate": "unit == 'share' ? datum.spent / datum.budget : datum.spent", "as": "value"},
        ],
        "mark": {
            "type": "line",
            "interpolate": "step-after",
            "strokeWidth": 1.3,
            "opacity": 0.8,
            "point": {"size": 18},
        },
        "encoding": {
            "x": _STEPS,
            "y": {
                "field": "value",
                "type": "quantitative",
                "title": by_choice("unit", {"count": "parameters in use", "share": "share of the budget in use"}),
                "axis": {"format": by_choice("unit", {"count": ".3~s", "share": ".0%"})},
            },
            "color": {**colour, "legend": {"title": "budget", "format": ","}},
            "detail": {"field": "seed"},
            "tooltip": hover(
                ("label", "method"),
                ("budget", "budget", ","),
                ("seed", "seed", ""),
                ("step", "step", ","),
                ("spent", "parameters in use", ","),
            ),
        },
    }
    controls = [
        Choice("label", "method", {label: label for label in labels}),
        Choice("unit", "unit", {"count": "parameters", "share": "share of the budget"}),
    ]
    return Plot(spec, {"growth": pd.DataFrame([_growth(cell) for cell in cells])}, controls, GROWTH_CAPTION)


def losses_plot(losses: pd.DataFrame) -> Plot:
    """Losses of every lane over optimizer steps, of one label and budget at a time; `losses` of `lane_losses`."""
    trainings = {name: name for name in losses["training"]}
    lanes = sorted(set(losses["lane"]), key=lambda lane: (not lane.isdigit(), lane.zfill(9)))
    spec: Spec = {
        **_VIEW,
        "data": {"name": "losses"},
        "params": [parameter("training")],
        "transform": [{"filter": "datum.training == training"}, {"flatten": ["step", "loss"]}],
        "mark": {"type": "line", "strokeWidth": 1.3, "opacity": 0.8, "point": {"size": 14}},
        "encoding": {
            "x": _STEPS,
            "y": {
                "field": "loss",
                "type": "quantitative",
                "title": "training loss",
                "scale": by_choice("axis", {"linear": {"zero": False}, "log": {"type": "log"}}),
            },
            "color": {
                "field": "lane",
                "sort": lanes,
                "scale": {"domain": lanes, "range": [PALETTE[i % len(PALETTE)] for i in range(len(lanes))]},
                "legend": {"title": "lane", "columns": 1 + len(lanes) // 12},
            },
            "detail": {"field": "seed"},
            "tooltip": hover(
                ("training", "training"),
                ("seed", "seed", ""),
                ("lane", "lane"),
                ("step", "step", ","),
                ("loss", "loss", ".4f"),
            ),
        },
    }
    controls = [
        Choice("training", "training", trainings),
        Choice("axis", "loss axis", {"linear": "linear", "log": "log"}),
    ]
    return Plot(spec, {"losses": losses}, controls, LOSS_CAPTION)


def lane_losses(cells: Sequence[CellResult], folder: Path) -> pd.DataFrame:
    """Losses per lane of the cells that left rounds: `training`, `seed`, `lane`, and lists `step` and `loss`."""
    trainings: list[tuple[str, int, dict[int, list[tuple[int, float]]]]] = []
    for cell in sorted(cells, key=lambda cell: (cell.identity.label, cell.identity.budget or 0, cell.identity.seed)):
        identity = cell.identity
        budget = "" if identity.budget is None else f" at {identity.budget:,}"
        series: dict[int, list[tuple[int, float]]] = {}
        for rounds in load_rounds(folder / "cells" / cell.id).values():
            for stats in rounds:
                for lane, loss in stats.losses.items():
                    series.setdefault(lane, []).append((stats.step, loss))
        trainings.append((f"{identity.label}{budget}", identity.seed, series))
    most = max(12, _VALUES // max(1, sum(len(series) for *_, series in trainings)))
    rows = [
        (training, seed, lane_name(lane), *_thinned(sorted(values), most))
        for training, seed, series in trainings
        for lane, values in sorted(series.items())
    ]
    return pd.DataFrame(rows, columns=["training", "seed", "lane", "step", "loss"])


def _growth(cell: CellResult) -> dict[str, object]:
    """Step and parameters after it, one value per step with growth, and the last at the end of the training."""
    spent = {event.step: event.spent for event in cell.growth}
    steps = [*spent, max(cell.cost.steps, *spent)]
    identity = cell.identity
    row = {"label": identity.label, "budget": identity.budget, "seed": identity.seed}
    return {**row, "step": steps, "spent": [*spent.values(), cell.growth[-1].spent]}


def _thinned(values: Sequence[tuple[int, float]], most: int) -> tuple[list[int], list[float]]:
    """Steps and losses; if there are more than `most`, means of neighbours at the step of the last."""
    groups = [group.tolist() for group in np.array_split(np.array(values), min(most, len(values)))]
    return [int(group[-1][0]) for group in groups], [float(np.mean([loss for _, loss in group])) for group in groups]
