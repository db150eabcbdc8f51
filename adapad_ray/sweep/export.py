"""Finds an adapter of a finished sweep and copies it into a folder of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from pydantic import ValidationError

from adapad_ray.budget import read_budget
from adapad_ray.errors import BadRequestError
from adapad_ray.files import filled
from adapad_ray.report.curves import PointKey, best_member
from adapad_ray.report.recommendation import RECOMMENDATION, Recommendation
from adapad_ray.report.records import load_results
from adapad_ray.report.style.formatting import short_count
from adapad_ray.results import CellResult, Point
from adapad_ray.storage import WorkingFolder
from adapad_ray.sweep.folder import recorded_spec
from adapad_ray.sweep.manifest import Manifest
from adapad_ray.tasks import DataSource, resolve_task
from adapad_ray.wording import counted

if TYPE_CHECKING:
    from adapad_ray.deployment.model_card import CurveRow

Member = tuple[CellResult, Point]
"""A deployable model of a cell."""


@dataclass(frozen=True)
class AdapterChoice:
    """Which adapter of a sweep to export."""

    label: str
    """Key of `methods` in the sweep's file."""
    budget: str
    """As the sweep's file or its table has it: `10.4k`, `10,400`, `0.5%`, `36 ranks`."""
    prefix: str | None = None
    """Of a smaller model that was cut from the trained one: components per module, or parameters as the figure has
    them. Default: the trained model."""
    seed: int | None = None
    """Default: the one with the best validation metric."""


class AvailablePoint(NamedTuple):
    """A point of the curve that could be exported."""

    label: str
    budget: int
    prefix: int | None
    parameters: tuple[int, ...]
    """Of every seed."""
    seeds: tuple[int, ...]


class NotInSweepError(BadRequestError):
    """The sweep has no such adapter; `available` are those of the label, or all."""

    def __init__(self, message: str, available: Sequence[Member]) -> None:
        super().__init__(message)
        self.available = _available(available)


class Exported(NamedTuple):
    """What was copied."""

    cell: CellResult
    point: Point
    missing: int
    """Cells of the sweep that are not finished."""
    warnings: list[str]
    """What could not be added to the folder; one sentence each."""
    folder: Path

    @property
    def sentence(self) -> str:
        """The folder, and the adapter in it."""
        metrics = ", ".join(f"{name} {value:.3f}" for name, value in self.point.validation.items())
        size = f"{self.point.parameters:,} adapter parameters on {counted(len(self.point.ranks), 'module')}"
        return f"{self.folder}: {size}, seed {self.cell.identity.seed}, validation {metrics}"

    def __repr__(self) -> str:
        return f"<{self.sentence}>"


def recommended_adapter(sweep: Path) -> AdapterChoice:
    """The adapter that a sweep's report recommends.

    Raises:
        BadRequestError: the folder has no recommendation, or it recommends the frozen backbone.
    """
    path = sweep / RECOMMENDATION
    if not sweep.is_dir():
        raise BadRequestError(f"{sweep} does not exist: pass the folder of a sweep")
    try:
        found = Recommendation.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise BadRequestError(
            f"{sweep} has no {RECOMMENDATION}: run the sweep to its end, or `adapad report`"
        ) from None
    except ValidationError as error:
        raise BadRequestError(f"{path} is not a recommendation of this version: run `adapad report` again") from error
    return choice_of(found)


def choice_of(found: Recommendation) -> AdapterChoice:
    """The adapter that a recommendation names.

    Raises:
        BadRequestError: it names the frozen backbone.
    """
    if found.adapters == 0:
        raise BadRequestError("no adapter of the sweep has finished with every seed: there is none to export")
    if found.parameters == 0:
        adapter = found.smallest_adapter
        instead = ", which has none; name the adapter that you want, with --method and --budget"
        if adapter is not None:
            instead = f"; the smallest adapter that is as good has --method {adapter.label} --budget {adapter.budget}"
            instead += "" if adapter.prefix is None else f" --prefix {adapter.prefix}"
        raise BadRequestError(f"no adapter is needed: {found.name} is recommended{instead}")
    prefix = None if found.prefix is None else str(found.prefix)
    return AdapterChoice(found.label, str(found.budget or 0), prefix, found.seed)


def export_adapter(sweep: Path, to: Path, choice: AdapterChoice) -> Exported:
    """Copies an adapter from a sweep's folder to the folder `to`, and completes it (`deployment.completion`).

    Raises:
        NotInSweepError: the sweep has no such label, budget, seed or prefix.
        BadRequestError: the method deploys no adapter, or `to` is not empty or cannot be written.
    """
    manifest = Manifest.load(sweep)
    results = load_results(sweep, manifest.labels)
    cell, point = _find(sweep, results, choice, manifest)
    if point.adapter is None:
        raise BadRequestError(f"{choice.label} deploys no adapter: there is nothing to export in the PEFT format")
    source = sweep / "cells" / cell.id / point.adapter
    if not source.is_dir():
        raise BadRequestError(f"{source} is missing: delete its cell's folder and run the sweep again")
    with filled(to):
        shutil.copytree(source, to, dirs_exist_ok=True)
        warnings = _complete(sweep, to, cell, point, manifest)
    return Exported(cell, point, manifest.missing(results), warnings, to)


def _complete(sweep: Path, to: Path, cell: CellResult, point: Point, manifest: Manifest) -> list[str]:
    """Adds what the cell's folder lacks; returns what could not be added."""
    from adapad_ray.deployment.completion import Training, complete_adapter
    from adapad_ray.deployment.model_card import CardFacts

    recorded = recorded_spec(WorkingFolder(str(sweep), sweep)) or {}
    source = resolve_task(recorded["task"]) if "task" in recorded else None
    if not isinstance(source, DataSource):
        return ["the sweep's task is not one of rows: the adapter has no tokenizer and no model card"]
    card = CardFacts(
        title=manifest.title,
        metric=cell.metric,
        parameters=point.parameters,
        head_parameters=point.head_parameters,
        modules=len(point.ranks),
        splits=manifest.splits,
        curve=_curve_rows(
            sweep / "curve.csv", PointKey(cell.identity.label, cell.identity.budget, point.kind, point.prefix)
        ),
    )
    return complete_adapter(to, Training(cell, point, source, card))


def _curve_rows(path: Path, exported: PointKey) -> list[CurveRow]:
    """The trained models of a sweep's curve and the exported point; empty before the first report."""
    from adapad_ray.deployment.model_card import CurveRow

    if not path.is_file():
        return []
    rows = []
    for row in pd.read_csv(path).to_dict("records"):
        key = PointKey._make(None if pd.isna(row[name]) else row[name] for name in PointKey._fields)
        if key.kind == "final" or key == exported:
            cut = "" if key.prefix is None else f" cut to {key.prefix:.0f}"
            budget = None if key.budget is None else int(key.budget)
            rows.append(
                CurveRow(
                    f"{key.label}{cut}",
                    budget,
                    row["parameters"],
                    row["test_mean"],
                    row["test_low"],
                    row["test_high"],
                    row["n_seeds"],
                    exported=key == exported,
                )
            )
    return rows


def _find(sweep: Path, finished: Iterable[CellResult], choice: AdapterChoice, manifest: Manifest) -> Member:
    """The cell and the point with the best validation metric among those that match."""
    members = [(r, point) for r in finished if r.identity.stage == "curve" for point in r.points]
    of_label = [member for member in members if member[0].identity.label == choice.label]
    gaps = {gap.budget or 0: gap.reason for gap in manifest.gaps if gap.label == choice.label}
    if not of_label and not gaps:
        raise NotInSweepError(f"{sweep} has no finished cell of {choice.label!r}", members)
    wanted = _budget(choice.budget, manifest)
    budgets = {cell.identity.budget or 0 for cell, _ in of_label}
    budget = _nearest(choice.budget, wanted, {b: [b] for b in budgets | gaps.keys()})
    if budget in gaps:
        raise NotInSweepError(f"{choice.label} at {choice.budget} cannot exist: {gaps[budget]}", of_label or members)
    if budget is None:
        raise NotInSweepError(f"{choice.label} has no finished cell at budget {choice.budget}", of_label)
    at_budget = [member for member in of_label if (member[0].identity.budget or 0) == budget]
    seeded = [member for member in at_budget if choice.seed in (None, member[0].identity.seed)]
    if not seeded:
        message = f"{choice.label} at {choice.budget} has no finished cell of seed {choice.seed}"
        raise NotInSweepError(message, at_budget)
    prefix = _prefix(choice, at_budget)
    matching = [member for member in seeded if member[1].prefix == prefix]
    if not matching:
        raise NotInSweepError(f"{choice.label} at {choice.budget} has no prefix {choice.prefix}", at_budget)
    return best_member(matching)


def _prefix(choice: AdapterChoice, members: Sequence[Member]) -> int | None:
    """Components per module of the prefix that is meant; -1 if there is none."""
    if choice.prefix is None:
        return None
    sizes: dict[int, list[int]] = {}
    for _, point in members:
        if point.prefix is not None:
            sizes.setdefault(point.prefix, []).append(point.parameters)
    with suppress(ValueError):
        if int(choice.prefix) in sizes:
            return int(choice.prefix)
    number, unit = read_budget(choice.prefix)
    if unit != "parameters":
        raise BadRequestError(f"prefix {choice.prefix!r} is neither components per module nor parameters")
    means = {prefix: [*of, round(sum(of) / len(of))] for prefix, of in sizes.items()}
    found = _nearest(choice.prefix, int(number), means)
    return -1 if found is None else found


def _nearest(text: str, wanted: int, sizes: dict[int, list[int]]) -> int | None:
    """The key that has this size or, if there is only one, a size that rounds to it as in the figure: `10.4k`."""
    exact = [key for key, of in sizes.items() if wanted in of]
    rounded = [key for key, of in sizes.items() if text.strip().lower() in {short_count(size).lower() for size in of}]
    found = exact or rounded
    return found[0] if len(found) == 1 else None


def _budget(text: str, manifest: Manifest) -> int:
    """The number of parameters that a budget on the command line stands for."""
    if text.strip() == "0":  # of methods without a budget
        return 0
    number, unit = read_budget(text)
    if unit == "parameters":
        return int(number + 1e-6)
    if manifest.units is None:
        raise BadRequestError(
            f"budget {text!r} depends on the model, which this folder does not record: write its number of parameters"
        )
    return manifest.units.parse(text)


def _available(members: Sequence[Member]) -> list[AvailablePoint]:
    groups: dict[tuple[str, int, int | None], list[Member]] = {}
    for cell, point in sorted(members, key=lambda member: member[0].identity.seed):
        groups.setdefault((cell.identity.label, cell.identity.budget or 0, point.prefix), []).append((cell, point))
    order = sorted(groups, key=lambda key: (key[0], key[1], -(key[2] or 10**9)))
    return [
        AvailablePoint(
            *key,
            parameters=tuple(point.parameters for _, point in groups[key]),
            seeds=tuple(cell.identity.seed for cell, _ in groups[key]),
        )
        for key in order
    ]
