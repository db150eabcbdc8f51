"""Finds the adapter that a person asks for in a finished sweep."""

from __future__ import annotations

from pathlib import Path

from adapad_ray.errors import BadRequestError
from adapad_ray.report.records import load_results
from adapad_ray.results import CellResult, Point
from adapad_ray.sweep.manifest import Manifest


def find_adapter(folder: Path, label: str, budget: str, prefix: int | None, seed: int | None) -> tuple[Path, Point]:
    """The adapter's folder and record: of the seed asked for, else of the seed that is best on validation.

    Raises:
        BadRequestError: the sweep has no such label, budget, seed or prefix, or nothing to export there.
    """
    manifest = Manifest.load(folder)
    results = [r for r in load_results(folder, manifest.labels) if r.identity.stage == "curve"]
    mine = [r for r in results if r.identity.label == label]
    if not mine:
        there = ", ".join(sorted({r.identity.label for r in results}))
        raise BadRequestError(f"{folder} has no finished cell of {label!r}: it has {there}")
    wanted = budget.replace(",", "").replace("_", "")
    cells = [r for r in mine if str(r.identity.budget or 0) == wanted and seed in (None, r.identity.seed)]
    if not cells:
        there = ", ".join(str(b) for b in sorted({r.identity.budget or 0 for r in mine}))
        raise BadRequestError(f"{label} has no finished cell at budget {budget}{_of(seed)}: its budgets are {there}")
    found = [(cell, point) for cell in cells for point in cell.points if point.prefix == prefix]
    if not found:
        there = ", ".join(str(p.prefix) for p in cells[0].points if p.prefix is not None) or "none"
        raise BadRequestError(f"{label} at {budget} has no prefix {prefix}: its prefixes are {there}")
    best: tuple[CellResult, Point] = max(found, key=lambda item: item[1].validation[item[0].metric])
    cell, point = best
    if point.adapter is None:
        raise BadRequestError(f"{label} deploys no adapter: there is nothing to export in the PEFT format")
    return folder / "cells" / cell.id / point.adapter, point


def _of(seed: int | None) -> str:
    return "" if seed is None else f", seed {seed}"
