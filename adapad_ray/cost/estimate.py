"""What a planned sweep will cost: parameters, FLOPs, memory and time, from shapes and a measured rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from adapad_ray.cost.throughput import Speed, expected_flops_per_token, tokens_per_step, training_speed
from adapad_ray.cost.worker_scaling import WORKERS, WorkersTime, expected_phases, expected_times
from adapad_ray.errors import BadRequestError
from adapad_ray.sweep.planner import GapRow, Grounds, Row, SweepPlan
from adapad_ray.sweep.spec import SweepSpec

LINK_GBPS = 10.0
"""Rate of the link between workers unless another is stated."""


@dataclass(frozen=True)
class RowEstimate:
    """One (label, budget) of the curve: one cell of it, whatever the seed."""

    label: str
    budget: int | None
    parameters: int
    remainder: int | None
    peak_parameters: int
    ranks: list[int] | None
    """The ranks that occur, or None where training discovers them."""
    steps: int
    lanes: int
    """Most lanes in one step."""
    passes: float
    """Expected forward-and-backward passes per step, as a mean over the steps."""
    train_flops: float
    evaluation_flops: float
    optimizer_bytes: int
    pass_seconds: float
    """Of one lane's forward and backward pass."""
    train_seconds: float
    """With one worker."""
    workers: tuple[WorkersTime, ...] = ()
    """Only where workers share out the lanes."""


@dataclass(frozen=True)
class SweepEstimate:
    """The whole sweep before anything has run."""

    name: str
    model: str
    backbone_parameters: int
    examples: dict[str, int]
    budgets: list[int]
    rows: list[RowEstimate]
    gaps: list[GapRow]
    cells: dict[str, int]
    """Stage → number of cells; of a search also `front`, those that train its front again: at most so many."""
    parents: dict[str, int]
    """`trained`: trainings that post-hoc `cells` share, at most."""
    flops: float
    speed: Speed
    link_gbps: float
    single_worker_seconds: float = field(default=0.0)
    words: bool = False
    """Whether texts are counted in words, for want of a tokenizer."""
    assumed: bool = False
    """Whether the data were not read: so many examples of `max_length` tokens are assumed."""
    kept: bool = False
    """Whether the model's sizes are those that this package keeps, as the Hub's configuration is out of reach."""


def estimate(spec: SweepSpec, grounds: Grounds, plan: SweepPlan, link_gbps: float = LINK_GBPS) -> SweepEstimate:
    """Estimates a planned sweep. Time is FLOPs over a rate that is measured now, padding included.

    Lanes are taken as growth is expected to add them, and tune cells at a label's mean over its budgets: a rough guide.

    Raises:
        BadRequestError: the link has no positive rate.
    """
    if not link_gbps > 0:
        raise BadRequestError(f"--link-gbps is {link_gbps:g}: give the rate of a worker's link in Gbit/s, above 0")
    per_token = expected_flops_per_token(grounds.model, grounds.data)
    speed = training_speed(spec, grounds, per_token)
    splits = grounds.data.splits
    sizes = {name: len(split) for name, split in splits.items()}
    evaluated = {
        name: sum(
            len(rows) * int(splits[name].lengths[rows].max())
            for rows in splits[name].evaluation_batches(spec.training.evaluation_batch_size)
        )
        for name in ("validation", "test")
    }
    reading = per_token * sum(evaluated.values())
    passes = {(row.label, row.budget): _passes(row) for row in plan.rows}
    rows = []
    for row in plan.rows:
        spent = passes[spec.compute_as(row.label) or row.label, row.budget]
        tokens = tokens_per_step(splits["train"], spec.training_settings(row.label))
        rows.append(_row(row, spent, tokens, per_token, reading, speed, link_gbps))
    trainings = {_training(spec, row): entry.train_flops for row, entry in zip(plan.rows, rows, strict=True)}
    curve_flops = (sum(trainings.values()) + sum(row.evaluation_flops for row in rows)) * len(spec.seeds)
    trials = 0 if spec.tune is None else spec.tune.trials
    tuned: dict[object, list[float]] = {}
    for row, entry in zip(plan.rows, rows, strict=True):
        key = _training(spec, row) if row.parent else row.label
        tuned.setdefault(key, []).append(entry.train_flops)
    each = spec.tune is not None and spec.tune.each
    once = sum(trainings.values()) if each else sum(sum(flops) / len(flops) for flops in tuned.values())
    flops = curve_flops + trials * once
    cells = {"tune": trials * len(rows if each else spec.labels()), "curve": len(rows) * len(spec.seeds)}
    if spec.search is not None:
        cells |= {"search": spec.search.trials * len(plan.searched)}
        cells |= {"front": spec.search.rerun * len(spec.seeds) * len(plan.searched)}
        for label, sample in plan.searched.items():
            tokens = tokens_per_step(splits["train"], spec.training_settings(label))
            entries = [_row(row, _passes(row), tokens, per_token, reading, speed, link_gbps) for row in sample]
            training = sum(entry.train_flops for entry in entries) / max(1, len(entries))
            flops += spec.search.trials * (training + per_token * evaluated["validation"])
            flops += spec.search.rerun * len(spec.seeds) * (training + reading)
    return SweepEstimate(
        name=spec.name,
        model=spec.model,
        backbone_parameters=grounds.backbone_parameters,
        examples=sizes,
        budgets=plan.budgets,
        rows=rows,
        gaps=plan.gaps,
        cells=cells,
        parents=_parents(spec, plan),
        flops=flops,
        speed=speed,
        link_gbps=link_gbps,
        single_worker_seconds=flops / speed.flops_per_second,
        words=grounds.words,
        assumed=grounds.assumed,
        kept=grounds.kept,
    )


def _passes(row: Row) -> float:
    """Expected passes per step of a row without `compute_as`."""
    if row.method.parallel != "components":
        return row.plan.lanes
    phases = expected_phases(row.method)
    return sum(phase.steps * phase.lanes for phase in phases) / sum(phase.steps for phase in phases)


def _row(
    row: Row, passes: float, tokens: float, per_token: float, evaluation: float, speed: Speed, link_gbps: float
) -> RowEstimate:
    plan = row.plan
    acting = plan.parameters if plan.acting_parameters is None else plan.acting_parameters
    pass_flops = tokens * (plan.backbone_passes * per_token + 6.0 * acting)
    pass_seconds = pass_flops / speed.flops_per_second
    shared = row.method.parallel == "components"
    return RowEstimate(
        label=row.label,
        budget=row.budget,
        parameters=plan.parameters,
        remainder=None if row.budget is None else row.budget - plan.parameters,
        peak_parameters=plan.peak_parameters,
        ranks=None if plan.ranks is None else sorted(set(plan.ranks.values())),
        steps=row.steps,
        lanes=plan.lanes,
        passes=passes,
        train_flops=row.steps * passes * pass_flops,
        evaluation_flops=evaluation,
        optimizer_bytes=16 * plan.peak_parameters,
        pass_seconds=pass_seconds,
        train_seconds=row.steps * passes * pass_seconds,
        workers=expected_times(expected_phases(row.method), pass_seconds, link_gbps) if shared else (),
    )


def _training(spec: SweepSpec, row: Row) -> tuple[object, ...]:
    """What a row's training is known by: rows of one parent have one and the same."""
    return (row.parent, spec.compute_as(row.label)) if row.parent else (row.label, row.budget)


def _parents(spec: SweepSpec, plan: SweepPlan) -> dict[str, int]:
    """Trainings that post-hoc cells share, at most, and how many there would be if each cell had its own.

    After a tune stage labels, and budgets that were tuned each, share a parent only where they have the same winner:
    none of them may.
    """
    rows = [row for row in plan.rows if row.parent]
    labels = {(row.label, _training(spec, row)) for row in rows}
    parents = {training for _, training in labels}
    stage = spec.tune
    trials = 0 if stage is None else stage.trials
    each = stage is not None and stage.each
    shared = len(parents if stage is None else rows if each else labels) * len(spec.seeds)
    return {
        "trained": shared + trials * len(parents),
        "cells": len(rows) * len(spec.seeds) + trials * len(rows if each else {row.label for row in rows}),
    }


def tables(found: SweepEstimate) -> list[Any]:
    """The estimate for a terminal."""
    view = Table(title=f"{found.name}: {found.model}", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("method", "budget", "parameters", "remainder", "in training", "ranks", "lanes", "steps", "TFLOP"):
        view.add_column(heading, justify="left" if heading == "method" else "right")
    for row in found.rows:
        upto = "≤ " if row.ranks is None else ""
        view.add_row(
            row.label,
            _count(row.budget),
            f"{upto}{row.parameters:,}",
            _count(row.remainder),
            f"{row.peak_parameters:,}",
            "discovered" if row.ranks is None else "–".join(map(str, row.ranks[:: max(1, len(row.ranks) - 1)])) or "–",
            str(row.lanes),
            f"{row.steps:,}",
            f"{row.train_flops / 1e12:,.1f}",
        )
    parts: list[Any] = [view]
    if found.gaps:
        gaps = Table(title="Gaps: these cannot exist", title_justify="left", box=SIMPLE_HEAD)
        for heading in ("method", "budget", "reason"):
            gaps.add_column(heading)
        for gap in found.gaps:
            gaps.add_row(gap.label, f"{gap.budget:,}", gap.reason)
        parts.append(gaps)
    parts += _workers_table(found)
    if found.kept:
        parts.append(f"The configuration of {found.model} is out of reach: its sizes are those kept here.")
    if found.words:
        parts.append("There is no tokenizer at hand: words are taken for tokens, so FLOPs and times are too low.")
    if found.assumed:
        parts.append(
            f"The data are not at hand: {found.examples['train']:,} training examples are assumed, all of max_length "
            "tokens, so FLOPs and times are upper bounds."
        )
    if found.parents["cells"]:
        upto = "at most " if found.cells["tune"] else ""
        parts.append(
            f"{upto}{found.parents['trained']} parents are trained instead of {found.parents['cells']} adapters: "
            "post-hoc cells share them, and the TFLOP of their rows are counted once."
        )
    counts = f"{found.cells['tune']} cells to tune and {found.cells['curve']} of the curve"
    if "search" in found.cells:
        counts = (
            f"{found.cells['search']} trials to search, at most {found.cells['front']} cells to train their front "
            f"again and {found.cells['curve']} of the curve"
        )
    parts.append("Counted from the model's configuration: no weights were looked at.")
    parts.append(f"{counts}; about {_duration(found.single_worker_seconds)} with one worker, at {found.speed.basis}.")
    return parts


def _workers_table(found: SweepEstimate) -> list[Any]:
    """Training time by number of workers, where lanes can be shared out."""
    rows = [row for row in found.rows if row.workers]
    if not rows:
        return []
    view = Table(title="Training time of one cell with W workers", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("method", "budget", "lanes", *(f"W = {count}" for count in WORKERS)):
        view.add_column(heading, justify="left" if heading == "method" else "right", no_wrap=True)
    for row in rows:
        times = [_duration(time.seconds) for time in row.workers]
        view.add_row(row.label, _count(row.budget), f"{row.passes:.1f} (≤ {row.lanes})", *times)
    return [
        view,
        f"Lanes as a mean over the steps, a guess where ranks are discovered; one worker a node, {found.link_gbps:g} "
        "Gbit/s each (--link-gbps). Evaluation is apart: rank 0 does it alone.",
    ]


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _duration(seconds: float) -> str:
    """Two or three significant digits: 8.4 s, 12 min, 3.1 h."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}" if seconds < 10 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
