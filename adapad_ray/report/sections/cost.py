"""Costs: of each deployed model, of all cells together, and of each worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from adapad_ray.report.plots.cost import cost_plot
from adapad_ray.report.plots.curve import adapted_labels
from adapad_ray.report.section import Chart, Section
from adapad_ray.report.style.blocks import Block, Table, Text, note
from adapad_ray.report.style.formatting import count, quantity, size
from adapad_ray.report.sweep_results import Row, SweepResults
from adapad_ray.results import CellResult, WorkerCost


@dataclass(frozen=True)
class Costs(Section):
    """Time, FLOPs, memory and storage."""

    heading = "What it cost"

    models: list[Row]
    """The final models of the curve."""
    totals: list[list[Text | int]]
    """One row per stage and label."""
    workers: list[list[Text | int]]
    """One row per label and worker, of cells with several workers."""
    packed: dict[str, int]
    """Label → most cells that took their steps together, for labels whose lanes shared passes."""
    labels: list[str]
    """All labels of the curve: those with a budget have the curve's colours."""
    metric: str

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self:
        finals = [row for row in sweep.rows if row["kind"] == "final"]
        adapted = adapted_labels(sweep.table)
        labels = [*adapted, *sorted({row["label"] for row in finals} - set(adapted))]
        packed: dict[str, int] = {}
        for result in sweep.results:
            if result.identity.packed:
                label = result.identity.label
                packed[label] = max(packed.get(label, 1), result.cost.side_by_side)
        return cls(finals, _totals(sweep.results), _workers(sweep.results), packed, labels, sweep.metric)

    def figures(self) -> Iterator[Chart]:
        plot = cost_plot(self.models, self.labels, self.metric)
        yield Chart("cost", "Test metric against the cost of training, per method", None, plot)

    def words(self) -> Iterator[Block]:
        yield Table(
            ["model", "budget", "deployed parameters", "train seconds", "train FLOPs", "peak memory", "on disk"],
            [
                [
                    row["label"],
                    count(row["budget"]),
                    count(row["parameters"]),
                    quantity(row["train_seconds"]),
                    quantity(row["train_flops"]),
                    size(row["peak_memory_bytes"]),
                    size(row["adapter_bytes"]),
                ]
                for row in self.models
            ],
        )
        yield note(
            "One model, mean over seeds; memory is the largest over seeds. “On disk” is the size of the exported "
            "folder with the task head. The next table sums over all cells."
        )
        columns = ["method", "stage", "cells", "models", "train seconds", "evaluation seconds", "train FLOPs"]
        columns += ["lane passes", "tokens", "peak parameters", "peak memory"]
        yield Table(columns, self.totals, styles={1: "text"})
        yield note(
            "Equal parameters do not mean equal cost: AdaPaD runs one forward and backward pass per lane. FLOPs are "
            "estimated (2 per multiply-add). Peak parameters are the most that were in training at one time. Training "
            "that the cells of a post-hoc method share is counted once, in the row of stage “parent”."
        )
        if self.packed:
            labels = ", ".join(f"{label} ({most})" for label, most in sorted(self.packed.items()))
            yield note(
                f"Trained in packs: {labels}; the numbers are the most cells that took steps together. Their "
                "lanes shared passes: seconds are a cell's share, by its lanes; memory is that of the whole process."
            )
        if self.workers:
            columns = ["method", "worker", "cells", "compute seconds", "exchange seconds", "wait seconds"]
            columns += ["idle", "published", "fetched"]
            yield Table(columns, self.workers)
            yield note(
                "Cells with several workers, summed over rounds and cells. A worker is idle while it waits for "
                "others: a round takes as long as the worker with the most lanes. Data-parallel workers cannot "
                "separate waiting from exchange."
            )


def _totals(results: Sequence[CellResult]) -> list[list[Text | int]]:
    groups: dict[tuple[str, str], list[CellResult]] = {}
    for result in results:
        groups.setdefault((result.identity.stage, result.identity.label), []).append(result)
    rows: list[list[Text | int]] = []
    for (stage, label), cells in sorted(groups.items()):
        trained = _without_shared_training(cells)
        rows.append(
            [
                label,
                stage,
                len(cells),
                sum(len(cell.points) for cell in cells),
                quantity(sum(cell.cost.train_seconds for cell in trained)),
                quantity(sum(cell.cost.evaluation_seconds for cell in cells)),
                quantity(sum(cell.cost.train_flops for cell in trained)),
                quantity(sum(cell.cost.lane_passes for cell in trained)),
                quantity(sum(cell.cost.tokens for cell in trained)),
                count(max(cell.cost.peak_parameters for cell in cells)),
                size(max(cell.cost.peak_memory_bytes for cell in cells)),
            ]
        )
    return rows


def _workers(results: Sequence[CellResult]) -> list[list[Text | int]]:
    groups: dict[tuple[str, int, int], list[WorkerCost]] = {}
    for cell in _without_shared_training(results):
        for worker in cell.cost.per_worker if cell.cost.workers > 1 else ():
            groups.setdefault((cell.identity.label, cell.cost.workers, worker.rank), []).append(worker)
    rows: list[list[Text | int]] = []
    for (label, workers, rank), costs in sorted(groups.items()):
        compute = sum(cost.compute_seconds for cost in costs)
        exchange = sum(cost.exchange_seconds for cost in costs)
        wait = sum(cost.wait_seconds for cost in costs)
        total = compute + wait + exchange
        rows.append(
            [
                label,
                f"{rank} of {workers}",
                len(costs),
                quantity(compute),
                quantity(exchange),
                quantity(wait),
                f"{100 * (wait / total if total else 0.0):.1f} %",
                size(sum(cost.bytes_published for cost in costs)),
                size(sum(cost.bytes_fetched for cost in costs)),
            ]
        )
    return rows


def _without_shared_training(cells: Sequence[CellResult]) -> list[CellResult]:
    """The cells that trained themselves. The costs of the others repeat those of the cell that trained for them."""
    return [cell for cell in cells if cell.identity.parent is None]
