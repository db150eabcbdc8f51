"""Estimates what a planned sweep will cost: parameters, FLOPs, memory and time, from shapes and a measured rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from adapad_ray.cost.memory import WorkerMemory, worker_memory
from adapad_ray.cost.packs import ExpectedPacks, expected_packs
from adapad_ray.cost.throughput import Throughput, expected_flops_per_token, tokens_per_step, training_throughput
from adapad_ray.cost.worker_scaling import WorkersTime, expected_phases, expected_times
from adapad_ray.errors import BadRequestError
from adapad_ray.search.halving import full_trainings
from adapad_ray.sweep.inputs import SweepInputs, sketch_inputs
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.plan import SweepPlan, plan_sweep, tune_cells, tuned_rows
from adapad_ray.sweep.planning.rows import GapRow, Row
from adapad_ray.sweep.spec import SweepSpec
from adapad_ray.tasks import Split, SplitSize
from adapad_ray.tracking.writers import missing_packages
from adapad_ray.training.cpus import usable_cpus

LINK_GBPS = 10.0
"""Default rate of the link between workers, in Gbit/s."""
OPTIMIZER_BYTES = 16
"""Bytes per trained parameter: value, gradient and two moments of Adam in fp32."""
AVERAGE_BYTES = 4
"""Bytes per trained parameter of the average that early stopping scores."""


@dataclass(frozen=True)
class RowEstimate:
    """One (label, budget) of the curve; the numbers are those of one cell, and the same for every seed."""

    label: str
    budget: int | None
    parameters: int
    """Deployed adapter parameters; an upper bound where training discovers the ranks."""
    remainder: int | None
    """Parameters of the budget that no component fits into; None without a budget."""
    peak_parameters: int
    """Most adapter parameters in training at one time."""
    ranks: list[int] | None
    """The ranks that occur, ascending; None where training discovers them."""
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
    """Training time by number of workers; empty where workers cannot share the lanes."""


@dataclass(frozen=True)
class Here:
    """The sweep on this machine alone, with nothing else running."""

    groups: int
    """Cells that run side by side; 0 if one needs more than this machine has."""
    seconds: float
    """With one worker to a cell: cells of equal length side by side, or the longest if that takes longer."""


@dataclass(frozen=True)
class SweepEstimate:
    """The whole sweep before any cell has run."""

    name: str
    model: str
    backbone_parameters: int
    examples: dict[str, int]
    """Split → number of examples."""
    splits: dict[str, SplitSize]
    """Split → number of rows, per class."""
    budgets: list[int]
    rows: list[RowEstimate]
    gaps: list[GapRow]
    cells: dict[str, int]
    """Stage → number of cells. For a search, `front` is the largest number of cells that train its front again."""
    parents: dict[str, int]
    """`trained`: at most this many trainings, which the post-hoc `cells` share."""
    flops: float
    throughput: Throughput
    link_gbps: float
    single_worker_seconds: float
    here: Here
    memory: WorkerMemory | None = None
    """None for a small model on a CPU."""
    packs: ExpectedPacks | None = None
    """None where no cell shares its passes with another."""
    tokens_are_words: bool = False
    """Whether texts are counted in words because there is no tokenizer."""
    rows_are_assumed: bool = False
    """Whether the data could not be read and every example is assumed to have `max_length` tokens."""
    sizes_are_packaged: bool = False
    """Whether the model's sizes come from this package because the Hub's configuration cannot be reached."""
    warnings: tuple[str, ...] = ()
    """What is suspicious about the data, the tokenizer and the model, and which packages the sweep will lack."""


@dataclass(frozen=True)
class _Rates:
    """What converts tokens to FLOPs and FLOPs to seconds."""

    flops_per_token: float
    """Of a forward pass of the backbone."""
    validation_flops: float
    evaluation_flops: float
    """Of validation and test together."""
    throughput: Throughput
    link_gbps: float
    train: Split


def estimate_sweep(spec: SweepSpec, link_gbps: float = LINK_GBPS) -> SweepEstimate:
    """Plans a sweep without loading weights and estimates its cost.

    Raises:
        BadRequestError: the sweep cannot be planned, or the link's rate is not positive.
    """
    inputs = sketch_inputs(spec)
    return estimate(spec, inputs, plan_sweep(CellFactory(spec, inputs)), link_gbps)


def estimate(spec: SweepSpec, inputs: SweepInputs, plan: SweepPlan, link_gbps: float = LINK_GBPS) -> SweepEstimate:
    """Estimates a planned sweep; time is FLOPs, padding included, over a rate that is measured now.

    The estimate is rough: the number of lanes follows the expected growth, and a tune cell costs its label's mean over
    the budgets.

    Raises:
        BadRequestError: the link's rate is not positive.
    """
    if not link_gbps > 0:
        raise BadRequestError(f"--link-gbps is {link_gbps:g}: pass the rate of a worker's link in Gbit/s, above 0")
    rates = _rates(spec, inputs, link_gbps)
    passes = {(row.label, row.budget): _passes(row) for row in plan.rows}
    rows = [_row(spec, row, passes[spec.compute_as(row.label) or row.label, row.budget], rates) for row in plan.rows]
    packs = expected_packs(spec, plan)
    flops = _curve_and_tune_flops(spec, plan, rows) + _search_flops(spec, plan, rates)
    return SweepEstimate(
        name=spec.name,
        model=spec.model,
        backbone_parameters=inputs.backbone_parameters,
        examples={name: len(split) for name, split in inputs.data.splits.items()},
        splits=dict(inputs.data.sizes),
        budgets=plan.budgets,
        rows=rows,
        gaps=plan.gaps,
        cells=_cells(spec, plan),
        parents=_parents(spec, plan),
        flops=flops,
        throughput=rates.throughput,
        link_gbps=link_gbps,
        single_worker_seconds=flops / rates.throughput.flops_per_second,
        here=_here(spec, plan, rows, flops / rates.throughput.flops_per_second),
        memory=worker_memory(spec, inputs, _trained_bytes(spec, rows, packs)),
        packs=packs,
        tokens_are_words=inputs.tokens_are_words,
        rows_are_assumed=inputs.rows_are_assumed,
        sizes_are_packaged=inputs.sizes_are_packaged,
        warnings=(*inputs.warnings, *missing_packages(tensorboard=spec.tensorboard, wandb=spec.wandb)),
    )


def _trained_bytes(spec: SweepSpec, rows: list[RowEstimate], packs: ExpectedPacks | None) -> int:
    """What trains in a worker at one time, with gradients, optimizer and the average that early stopping scores."""
    largest = max((row.optimizer_bytes for row in rows), default=0)
    trained = largest if packs is None else max(largest, OPTIMIZER_BYTES * packs.peak_parameters)
    if spec.tune is not None and spec.tune.early_stopping:
        trained += trained * AVERAGE_BYTES // OPTIMIZER_BYTES
    return trained


def _here(spec: SweepSpec, plan: SweepPlan, rows: list[RowEstimate], seconds: float) -> Here:
    """How many cells this machine holds at once, and how long it takes, from the time that one after another takes."""
    resources = spec.resources
    room = [usable_cpus() // (resources.workers * resources.cpus_per_worker)]
    if resources.gpus_per_worker:
        room.append(torch.cuda.device_count() // (resources.workers * resources.gpus_per_worker))
    if resources.max_groups is not None:
        room.append(resources.max_groups)
    groups = int(min(*room, plan.cells))
    longest = max((row.train_seconds for row in rows), default=0.0)
    return Here(groups, max(seconds / max(1, groups), longest))


def _rates(spec: SweepSpec, inputs: SweepInputs, link_gbps: float) -> _Rates:
    splits = inputs.data.splits
    per_token = expected_flops_per_token(inputs.model, inputs.data)
    validation, test = (
        sum(
            len(rows) * int(splits[name].lengths[rows].max())
            for rows in splits[name].evaluation_batches(spec.training.evaluation_batch_size)
        )
        for name in ("validation", "test")
    )
    return _Rates(
        flops_per_token=per_token,
        validation_flops=per_token * validation,
        evaluation_flops=per_token * (validation + test),
        throughput=training_throughput(spec, inputs, per_token),
        link_gbps=link_gbps,
        train=splits["train"],
    )


def _passes(row: Row) -> float:
    """Expected passes per step of a row without `compute_as`."""
    if row.method.parallel != "components":
        return row.plan.lanes
    phases = expected_phases(row.method)
    return sum(phase.steps * phase.lanes for phase in phases) / sum(phase.steps for phase in phases)


def _row(spec: SweepSpec, row: Row, passes: float, rates: _Rates) -> RowEstimate:
    plan = row.plan
    tokens = tokens_per_step(rates.train, spec.training_settings(row.label))
    acting = plan.parameters if plan.acting_parameters is None else plan.acting_parameters
    # An acting parameter takes 2 FLOPs per token in the forward pass and 4 in the backward pass.
    pass_flops = tokens * (plan.backbone_passes * rates.flops_per_token + 6.0 * acting)
    pass_seconds = pass_flops / rates.throughput.flops_per_second
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
        evaluation_flops=rates.evaluation_flops,
        optimizer_bytes=OPTIMIZER_BYTES * plan.peak_parameters,
        pass_seconds=pass_seconds,
        train_seconds=row.steps * passes * pass_seconds,
        workers=expected_times(expected_phases(row.method), pass_seconds, rates.link_gbps) if shared else (),
    )


def _curve_and_tune_flops(spec: SweepSpec, plan: SweepPlan, rows: list[RowEstimate]) -> float:
    trainings = {_training(spec, row): entry.train_flops for row, entry in zip(plan.rows, rows, strict=True)}
    curve = (sum(trainings.values()) + sum(row.evaluation_flops for row in rows)) * len(spec.seeds)
    if spec.tune is None:
        return curve
    # Trials that cut the adapters of parents are not stopped early, and neither are the parents.
    stage = {
        _study(spec, row): full_trainings(spec.tune_trials(row.label), () if row.parent else spec.tune.rungs)
        * entry.train_flops
        for row, entry in zip(plan.rows, rows, strict=True)
    }
    by_label: dict[object, list[float]] = {}
    for row in plan.rows:
        key = _study(spec, row)
        by_label.setdefault(key if row.parent else row.label, []).append(stage[key])
    if spec.tune.by_budget:
        tuned = {_study(spec, row) for row in tuned_rows(spec, plan.rows)}
        return curve + sum(flops for study, flops in stage.items() if study in tuned)
    return curve + sum(map(_mean, by_label.values()))


def _search_flops(spec: SweepSpec, plan: SweepPlan, rates: _Rates) -> float:
    """Of the trials and of training the front again, at the mean over a few cells of each label's space."""
    if spec.search is None:
        return 0.0
    total = 0.0
    for sample in plan.searched.values():
        training = _mean(_row(spec, row, _passes(row), rates).train_flops for row in sample)
        total += spec.search.trials * (training + rates.validation_flops)
        total += spec.search.rerun * len(spec.seeds) * (training + rates.evaluation_flops)
    return total


def _cells(spec: SweepSpec, plan: SweepPlan) -> dict[str, int]:
    """Stage → number of cells."""
    cells = {"tune": tune_cells(spec, plan.rows), "curve": len(plan.rows) * len(spec.seeds)}
    if spec.search is not None:
        cells["search"] = spec.search.trials * len(plan.searched)
        cells["front"] = spec.search.rerun * len(spec.seeds) * len(plan.searched)
    return cells


def _training(spec: SweepSpec, row: Row) -> tuple[object, ...]:
    """Identifies a row's training: rows with the same parent share one."""
    return (row.parent, spec.compute_as(row.label)) if row.parent else (row.label, row.budget)


def _study(spec: SweepSpec, row: Row) -> tuple[object, ...]:
    """Identifies the trainings of a row's tune stage: rows with the same parent and the same space share them."""
    return (*_training(spec, row), repr(spec.tune_space(row.label)) if row.parent else "")


def _parents(spec: SweepSpec, plan: SweepPlan) -> dict[str, int]:
    """The largest number of trainings that post-hoc cells share, and the number of these cells.

    After a tune stage two labels share a parent only if they have the same winner, and so do two budgets that were
    tuned separately. The count assumes that none do.
    """
    rows = [row for row in plan.rows if row.parent]
    labels = {(row.label, _training(spec, row)) for row in rows}
    parents = {training for _, training in labels}
    cells, stage = len(rows) * len(spec.seeds), spec.tune
    if stage is None:
        return {"trained": len(parents) * len(spec.seeds), "cells": cells}
    shared = len(rows if stage.by_budget else labels) * len(spec.seeds)
    studies = {_study(spec, row): spec.tune_trials(row.label) for row in rows}
    tuned = [row.label for row in tuned_rows(spec, rows)] if stage.by_budget else {row.label for row in rows}
    return {"trained": shared + sum(studies.values()), "cells": cells + sum(map(spec.tune_trials, tuned))}


def _mean(values: Iterable[float]) -> float:
    """The mean, or 0 of nothing."""
    entries = list(values)
    return sum(entries) / max(1, len(entries))
