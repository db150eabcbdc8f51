"""One self-contained HTML page and the files beside it, from a sweep's folder."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from adapad_ray.files import write_text
from adapad_ray.report.convergence import (
    convergence_figure,
    convergence_sentences,
    convergence_table,
    label_convergences,
    write_convergence_csv,
)
from adapad_ray.report.curves import Curves, write_curve_csv
from adapad_ray.report.differences import areas, conclusions, label_differences, ranks
from adapad_ray.report.figures import curve_figure, growth_figure, rank_figure, save_figure
from adapad_ray.report.inputs import FailedCell, Gap, SearchedLabel
from adapad_ray.report.published import PublishedPoint, comparable, of_task
from adapad_ray.report.recommendation import FROZEN, Recommendation, recommend, write_recommendation
from adapad_ray.report.records import load_results
from adapad_ray.report.search import read_searches, search_figure, write_trials_csv
from adapad_ray.report.tuning import tuned_trials
from adapad_ray.results import CellResult, WorkerCost


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report; those of growth are None where no method grew its ranks."""

    curve_csv: Path
    curve_png: Path
    curve_svg: Path
    ranks_png: Path
    ranks_svg: Path
    growth_png: Path | None
    growth_svg: Path | None
    recommendation_json: Path
    html: Path
    recommendation: Recommendation
    metric: str
    table: pd.DataFrame
    """The curve, one row per deployable model."""
    convergence_csv: Path | None = None
    convergence_png: Path | None = None
    convergence_svg: Path | None = None
    """These three only where the task knows its true components."""
    trials_csv: Path | None = None
    search_png: Path | None = None
    search_svg: Path | None = None
    """These three only of a search."""
    verdicts: tuple[str, ...] = ()
    """A sentence for every search: whether its front dominates the default settings."""

    @property
    def files(self) -> list[Path]:
        """Every file written, for MLflow's artifacts."""
        return [path for path in vars(self).values() if isinstance(path, Path)]


def build_report(
    folder: Path | str,
    *,
    title: str,
    mlflow_url: str | None = None,
    notes: Sequence[Gap] = (),
    failed: Sequence[FailedCell] = (),
    cells: Mapping[str, str] | None = None,
    searched: Sequence[SearchedLabel] = (),
    published: Sequence[PublishedPoint] = (),
    delta: float = 0.01,
    confidence: float = 0.95,
    generator: np.random.Generator | None = None,
    draws: int = 2000,
) -> ReportPaths:
    """Writes curve, figures, recommendation and page into `folder`, each file atomically.

    `cells` maps the ids that count to their labels, if the folder holds cells of an earlier version of the sweep's
    file. The same cells and generator give the same files. Raises `BadRequestError` if there is nothing to report.
    """
    folder = Path(folder)
    results = load_results(folder, cells)
    curves = Curves(results, folder, generator=generator, draws=draws)
    table = curves.table()
    recommendation = recommend(curves, delta=delta, confidence=confidence)
    write_curve_csv(table, folder / "curve.csv")
    write_recommendation(recommendation, folder / "recommendation.json")
    quoted = of_task(published, results[0].identity.task)
    drawn_beside = comparable(quoted, curves.metric)
    figure = curve_figure(table, recommendation, FROZEN, curves.metric, title, drawn_beside)
    curve = save_figure(figure, folder / "curve")
    heat = save_figure(rank_figure(curves.results), folder / "ranks")
    grown = growth_figure(curves.results)
    growth = save_figure(grown, folder / "growth") if grown is not None else (None, None)
    differences = label_differences(curves, margin=delta)
    converging = label_convergences(curves.results, folder)
    errors = convergence_table(converging) if converging else None
    convergence: tuple[Path | None, Path | None, Path | None] = None, None, None
    if errors is not None:
        write_convergence_csv(errors, folder / "convergence.csv")
        drawn = save_figure(convergence_figure(converging), folder / "convergence")
        convergence = folder / "convergence.csv", *drawn
    searches = read_searches(folder, searched, curves)
    trials: Path | None = None
    drawing: tuple[Path | None, Path | None] = None, None
    if searches:
        trials = folder / "trials.csv"
        write_trials_csv(searches, trials)
        drawing = save_figure(search_figure(searches, curves), folder / "search")
    page = _environment().get_template("report.html.j2")
    html = page.render(
        title=title,
        metric=curves.metric.replace("_", " "),
        recommendation=recommendation,
        curve=_inline(curve[1], "Test metric against deployed parameters, per method"),
        ranks=_inline(heat[1], "Rank per module type and layer"),
        growth=_inline(growth[1], "Parameters in use over optimizer steps") if growth[1] else None,
        convergence=_inline(convergence[2], "Error of every component against rounds") if convergence[2] else None,
        components=[] if errors is None else errors.to_dict("records"),
        comparisons=convergence_sentences(converging),
        searches=searches,
        search_figure=_inline(drawing[1], "Validation metric against parameters, per trial") if drawing[1] else None,
        rows=[{str(name): value for name, value in row.items()} for row in table.to_dict("records")],
        published=quoted,
        conclusions=conclusions(differences),
        differences=differences,
        standings=ranks(differences),
        labels=sorted({label for difference in differences for label in (difference.first, difference.second)}),
        areas=areas(curves),
        tuned=tuned_trials(results),
        gaps=list(notes),
        failed=list(failed),
        mlflow_url=mlflow_url,
        mlflow_is_link=bool(mlflow_url and re.match(r"https?://", mlflow_url)),
        cost=_cost(results),
        workers=_workers(results),
        methods=_methods(curves.results),
        identity=results[0].identity,
        items={split: len(curves.labels(split)) for split in ("validation", "test")},
        seeds=sorted({result.identity.seed for result in curves.results}),
        versions=_versions(results),
    )
    write_text(folder / "report.html", html)
    return ReportPaths(
        folder / "curve.csv",
        *curve,
        *heat,
        growth[0],
        growth[1],
        folder / "recommendation.json",
        folder / "report.html",
        recommendation,
        curves.metric,
        table,
        *convergence,
        trials_csv=trials,
        search_png=drawing[0],
        search_svg=drawing[1],
        verdicts=tuple(view.verdict for view in searches),
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("adapad_ray.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    formats = {"count": _count, "share": _share, "number": _number, "bytes": _bytes, "mean": _mean, "setting": _setting}
    environment.filters |= formats
    return environment


def _inline(svg: Path, description: str) -> Markup:
    """The figure as an element of the page: no prologue, no namespace addresses, and a name for screen readers.

    The file is our own; matplotlib has escaped the labels in it.
    """
    text = svg.read_text(encoding="utf-8")
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :], count=3)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    opening = Markup('<svg role="img" aria-label="{}"').format(description)
    return Markup(text.replace("<svg", str(opening), 1))


def _cost(results: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Cost per stage and label, summed over cells; the training of cells with a parent stands in the parent's row."""
    groups: dict[tuple[str, str], list[CellResult]] = {}
    for result in results:
        groups.setdefault((result.identity.stage, result.identity.label), []).append(result)
    return [
        {
            "stage": stage,
            "label": label,
            "cells": len(cells),
            "models": sum(len(cell.points) for cell in cells),
            "seconds": sum(cell.cost.train_seconds for cell in _trained(cells)),
            "evaluation": sum(cell.cost.evaluation_seconds for cell in cells),
            "flops": sum(cell.cost.train_flops for cell in _trained(cells)),
            "lane_passes": sum(cell.cost.lane_passes for cell in _trained(cells)),
            "tokens": sum(cell.cost.tokens for cell in _trained(cells)),
            "memory": max(cell.cost.peak_memory_bytes for cell in cells),
            "peak_parameters": max(cell.cost.peak_parameters for cell in cells),
        }
        for (stage, label), cells in sorted(groups.items())
    ]


def _workers(results: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Where the time of each worker went, per label and number of workers, summed over cells that had several."""
    groups: dict[tuple[str, int, int], list[WorkerCost]] = {}
    for cell in _trained(results):
        for worker in cell.cost.per_worker if cell.cost.workers > 1 else ():
            groups.setdefault((cell.identity.label, cell.cost.workers, worker.rank), []).append(worker)
    rows = []
    for (label, workers, rank), costs in sorted(groups.items()):
        names = ("compute_seconds", "wait_seconds", "exchange_seconds", "bytes_published", "bytes_fetched")
        sums = {name: sum(getattr(cost, name) for cost in costs) for name in names}
        whole = sums["compute_seconds"] + sums["wait_seconds"] + sums["exchange_seconds"]
        idle = sums["wait_seconds"] / whole if whole else 0.0
        rows.append({"label": label, "workers": workers, "rank": rank, "cells": len(costs), "idle": idle, **sums})
    return rows


def _trained(cells: Sequence[CellResult]) -> list[CellResult]:
    return [cell for cell in cells if cell.identity.parent is None]


def _methods(results: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Configuration and training settings per label; a setting that differs among its cells lists every value."""
    groups: dict[str, list[CellResult]] = {}
    for result in results:
        groups.setdefault(result.identity.label, []).append(result)
    return [
        {
            "label": label,
            "method": f"{cells[0].identity.method} (version {cells[0].identity.method_version})",
            "modules": sorted({len(cell.identity.target_modules) for cell in cells}),
            "config": _merged([cell.identity.config for cell in cells]),
            "training": _merged([cell.identity.training for cell in cells]),
        }
        for label, cells in sorted(groups.items())
    ]


def _merged(settings: Sequence[dict[str, Any]]) -> dict[str, str]:
    merged: dict[str, dict[str, None]] = {}
    for setting in settings:
        for name, value in setting.items():
            text = json.dumps(value, ensure_ascii=False, default=str).strip('"')
            merged.setdefault(name, {})[text] = None
    return {name: " | ".join(values) for name, values in sorted(merged.items())}


def _versions(results: Sequence[CellResult]) -> dict[str, str]:
    return _merged([result.versions for result in results])


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _bytes(value: float) -> str:
    return "–" if math.isnan(value) else f"{_number(value)}B"


def _share(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def _mean(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _setting(value: Any) -> str:
    if isinstance(value, float):
        return "–" if math.isnan(value) else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _number(value: float) -> str:
    """Three significant digits, in words that a table can hold: 3.1e+12 → 3.1 T."""
    for size, unit in ((1e18, " E"), (1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= 0.9995 * size:  # 999.6 is 1e+03 in three digits, and 1 of the next unit
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"
