"""Finds an adapter of a finished sweep and copies it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from adapad_ray.budget import read_budget
from adapad_ray.errors import BadRequestError
from adapad_ray.files import filled
from adapad_ray.report.records import load_results
from adapad_ray.results import CellResult, Point
from adapad_ray.sweep.manifest import Manifest


class Exported(NamedTuple):
    """What was copied."""

    cell: CellResult
    point: Point
    missing: int
    """Cells of the sweep that are not finished."""


def export_adapter(
    sweep: Path, to: Path, *, label: str, budget: str, prefix: int | None = None, seed: int | None = None
) -> Exported:
    """Copies an adapter from a sweep's folder to the folder `to`.

    Args:
        label: key of `methods` in the sweep's file.
        budget: a number of parameters, as the sweep's file or its table has it: `10.4k`, `10,400`.
        prefix: at most this many components per module; the whole model by default.
        seed: the one with the best validation metric by default.

    Raises:
        BadRequestError: the sweep has no such label, budget, seed or prefix, the method deploys no adapter, or `to` is
            not empty or cannot be written.
    """
    manifest = Manifest.load(sweep)
    results = load_results(sweep, manifest.labels)
    cell, point = _find(sweep, results, label, budget, prefix, seed)
    if point.adapter is None:
        raise BadRequestError(f"{label} deploys no adapter: there is nothing to export in the PEFT format")
    source = sweep / "cells" / cell.id / point.adapter
    if not source.is_dir():
        raise BadRequestError(f"{source} is missing: delete its cell's folder and run the sweep again")
    with filled(to):
        shutil.copytree(source, to, dirs_exist_ok=True)
    return Exported(cell, point, manifest.missing(results))


def _find(
    sweep: Path, finished: Sequence[CellResult], label: str, budget: str, prefix: int | None, seed: int | None
) -> tuple[CellResult, Point]:
    """The cell and the point with the best validation metric among those that match."""
    results = [r for r in finished if r.identity.stage == "curve"]
    of_label = [r for r in results if r.identity.label == label]
    if not of_label:
        labels = ", ".join(sorted({r.identity.label for r in results})) or "none of its curve yet"
        raise BadRequestError(f"{sweep} has no finished cell of {label!r}: it has {labels}")
    parameters = _parameters(budget)
    at_budget = [r for r in of_label if (r.identity.budget or 0) == parameters]
    if not at_budget:
        budgets = ", ".join(str(b) for b in sorted({r.identity.budget or 0 for r in of_label}))
        raise BadRequestError(f"{label} has no finished cell at budget {budget}: its budgets are {budgets}")
    cells = [r for r in at_budget if seed in (None, r.identity.seed)]
    if not cells:
        seeds = ", ".join(str(r.identity.seed) for r in at_budget)
        raise BadRequestError(f"{label} at {budget} has no finished cell of seed {seed}: its seeds are {seeds}")
    matching = [(cell, point) for cell in cells for point in cell.points if point.prefix == prefix]
    if not matching:
        prefixes = ", ".join(str(p.prefix) for p in cells[0].points if p.prefix is not None) or "none"
        raise BadRequestError(f"{label} at {budget} has no prefix {prefix}: its prefixes are {prefixes}")
    return max(matching, key=lambda match: match[1].validation[match[0].metric])


def _parameters(budget: str) -> int:
    """The number of parameters that a budget on the command line stands for."""
    if budget.strip() == "0":  # of methods without a budget
        return 0
    number, unit = read_budget(budget.replace(",", ""))
    if unit in ("%", "ranks"):
        raise BadRequestError(f"budget {budget!r} depends on the model: write its number of parameters")
    return math.floor(number + 1e-6)
