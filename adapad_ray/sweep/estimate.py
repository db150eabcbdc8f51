"""What a planned sweep will cost: parameters, FLOPs, memory and time, from shapes and a measured rate."""

from __future__ import annotations

import time
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from adapad_ray.methods import METHODS
from adapad_ray.sweep.planner import Grounds, Row, SweepPlan
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.training.cell import forward_flops_per_token


def describe(spec: SweepSpec, grounds: Grounds, plan: SweepPlan) -> dict[str, Any]:
    """The plan as plain data: rows, gaps, number of cells, and estimates for all of it.

    Time is FLOPs over the matrix-product rate of one thread of this machine, measured now. Padding is not counted,
    lanes are taken at their largest number and tune cells at a label's mean over its budgets: a rough guide.
    """
    per_token = forward_flops_per_token(grounds.model, grounds.data)
    tokens = {name: float(split.lengths.mean()) for name, split in grounds.data.splits.items()}
    sizes = {name: len(split) for name, split in grounds.data.splits.items()}
    evaluation = per_token * sum(tokens[s] * sizes[s] for s in ("validation", "test"))
    passes = {(row.label, row.budget): row.plan.passes for row in plan.rows}
    rows = []
    for row in plan.rows:
        spent = passes[spec.compute_as(row.label) or row.label, row.budget]
        rows.append(_row(spec, row, spent, per_token, tokens["train"], evaluation))
    rate = _flops_per_second()
    curve_flops = sum(row["train_flops"] + row["evaluation_flops"] for row in rows) * len(spec.seeds)
    trials = 0 if spec.tune is None else spec.tune.trials
    tune_cells = trials * len(spec.labels())
    tuned = {label: [r["train_flops"] for r in rows if r["label"] == label] for label in spec.labels()}
    tune_flops = trials * sum(sum(flops) / len(flops) for flops in tuned.values() if flops)
    return {
        "name": spec.name,
        "model": spec.model,
        "backbone_parameters": grounds.backbone_parameters,
        "examples": sizes,
        "budgets": plan.budgets,
        "rows": rows,
        "gaps": [vars(gap) for gap in plan.gaps],
        "cells": {"tune": tune_cells, "curve": len(rows) * len(spec.seeds)},
        "flops": curve_flops + tune_flops,
        "flops_per_second": rate,
        "single_worker_seconds": (curve_flops + tune_flops) / rate,
    }


def _row(spec: SweepSpec, row: Row, passes: int, per_token: float, tokens: float, evaluation: float) -> dict[str, Any]:
    settings = spec.training_settings(row.label)
    seen = row.steps * settings.batch_size * tokens
    backward = 2 if METHODS[spec.method_name(row.label)].budgeted else 1
    return {
        "label": row.label,
        "budget": row.budget,
        "parameters": row.plan.parameters,
        "remainder": None if row.budget is None else row.budget - row.plan.parameters,
        "peak_parameters": row.plan.peak_parameters,
        "ranks": "discovered" if row.plan.ranks is None else sorted(set(row.plan.ranks.values())),
        "steps": row.steps,
        "lanes": row.plan.lanes,
        "train_flops": seen * passes * (backward * per_token + 6.0 * row.plan.parameters),
        "evaluation_flops": evaluation,
        "optimizer_bytes": 16 * row.plan.peak_parameters,
    }


def _flops_per_second() -> float:
    """Best of a few 512 × 512 products on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a = torch.rand(512, 512)
        best = 0.0
        for _ in range(10):
            start = time.perf_counter()
            a @ a
            best = max(best, 2 * 512**3 / (time.perf_counter() - start))
        return best
    finally:
        torch.set_num_threads(threads)


def tables(description: dict[str, Any]) -> list[Any]:
    """The plan for a terminal."""
    view = Table(title=f"{description['name']}: {description['model']}", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("method", "budget", "parameters", "remainder", "in training", "ranks", "lanes", "steps", "TFLOP"):
        view.add_column(heading, justify="left" if heading == "method" else "right")
    for row in description["rows"]:
        ranks = (
            row["ranks"]
            if isinstance(row["ranks"], str)
            else "–".join(map(str, row["ranks"][:: max(1, len(row["ranks"]) - 1)]))
        )
        upto = "≤ " if row["ranks"] == "discovered" else ""
        view.add_row(
            row["label"],
            "–" if row["budget"] is None else f"{row['budget']:,}",
            f"{upto}{row['parameters']:,}",
            "–" if row["remainder"] is None else f"{row['remainder']:,}",
            f"{row['peak_parameters']:,}",
            ranks or "–",
            str(row["lanes"]),
            f"{row['steps']:,}",
            f"{row['train_flops'] / 1e12:,.1f}",
        )
    parts: list[Any] = [view]
    if description["gaps"]:
        gaps = Table(title="Gaps: these cannot exist", title_justify="left", box=SIMPLE_HEAD)
        for heading in ("method", "budget", "reason"):
            gaps.add_column(heading)
        for gap in description["gaps"]:
            gaps.add_row(gap["label"], f"{gap['budget']:,}", gap["reason"])
        parts.append(gaps)
    cells, seconds = description["cells"], description["single_worker_seconds"]
    parts.append(
        f"{cells['tune']} cells to tune and {cells['curve']} of the curve; about {seconds / 60:,.0f} minutes of "
        f"one CPU thread at the {description['flops_per_second'] / 1e9:,.0f} GFLOP/s just measured here."
    )
    return parts
