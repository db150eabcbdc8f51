"""The tables and lines that commands print."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from adapad_ray.adapters.compression import CompressionReport, ModuleReport
from adapad_ray.cost.estimate import OPTIMIZER_BYTES, SweepEstimate
from adapad_ray.cost.memory import WorkerMemory, in_words
from adapad_ray.cost.packs import ExpectedPacks
from adapad_ray.cost.worker_scaling import WORKERS
from adapad_ray.sweep.export import AvailablePoint
from adapad_ray.tasks import sizes_in_words
from adapad_ray.wording import counted, duration, rough_duration

OPTIONAL_IN_PLAN = ("W = 64", "W = 32", "W = 16", "W = 8", "remainder", "in training", "TFLOP", "steps")
"""Columns that a narrow terminal does not show, the first first."""


def estimate_tables(estimate: SweepEstimate) -> list[Table | str]:
    """Everything that `adapad plan` prints, from top to bottom."""
    parts: list[Table | str] = [machine_takes(estimate), _cells_table(estimate), _sizes_in_words(estimate)]
    if estimate.gaps:
        parts.append(_gaps_table(estimate))
    if any(row.workers for row in estimate.rows):
        parts.append(_workers_table(estimate))
        parts.append(
            f"Lanes are the mean over the steps, estimated where ranks are discovered; one worker per node, "
            f"{estimate.link_gbps:g} Gbit/s each (--link-gbps). Evaluation is not included: rank 0 runs it alone."
        )
    return [*parts, *_notes(estimate)]


def machine_takes(estimate: SweepEstimate) -> str:
    """What a sweep takes on this machine."""
    here = estimate.here
    if not here.groups:
        return "This machine has no room for a cell: see `resources`, and the times of clusters below."
    side_by_side = "one cell at a time" if here.groups == 1 else f"{here.groups} cells at a time"
    bound = "at least " if estimate.tokens_are_words or not estimate.throughput.measured else ""
    return f"This machine: {bound}about {rough_duration(here.seconds)}, {side_by_side}, if nothing else runs."


def _cells_table(estimate: SweepEstimate) -> Table:
    headings = ("method", "budget", "parameters", "remainder", "in training", "ranks", "lanes", "steps", "TFLOP")
    table = _table(headings, title=f"{estimate.name}: {estimate.model}", no_wrap=True)
    for row in estimate.rows:
        at_most = "≤ " if row.ranks is None else ""
        table.add_row(
            row.label,
            _count(row.budget),
            f"{at_most}{row.parameters:,}",
            _count(row.remainder),
            f"{row.peak_parameters:,}",
            "discovered" if row.ranks is None else "–".join(map(str, row.ranks[:: max(1, len(row.ranks) - 1)])) or "–",
            str(row.lanes),
            f"{row.steps:,}",
            f"{row.train_flops / 1e12:,.1f}",
        )
    return table


def _sizes_in_words(estimate: SweepEstimate) -> str:
    return (
        f"Parameters are those of the deployed adapter, without the task head. The model has "
        f"{estimate.backbone_parameters:,}; weights that two of its layers share are counted once."
    )


def _gaps_table(estimate: SweepEstimate) -> Table:
    table = Table(title="Gaps: these cells cannot exist", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("method", "budget", "reason"):
        table.add_column(heading)
    for gap in estimate.gaps:
        table.add_row(gap.label, f"{gap.budget:,}", gap.reason)
    return table


def _workers_table(estimate: SweepEstimate) -> Table:
    """Training time by number of workers, for methods whose lanes workers can share."""
    headings = ("method", "budget", "lanes", *(f"W = {count}" for count in WORKERS))
    table = _table(headings, title="Training time of one cell with W workers", no_wrap=True)
    for row in estimate.rows:
        if row.workers:
            times = [duration(time.seconds) for time in row.workers]
            table.add_row(row.label, _count(row.budget), f"{row.passes:.1f} (≤ {row.lanes})", *times)
    return table


def _memory_in_words(memory: WorkerMemory) -> str:
    needed = ", ".join(f"{memory.gpus(size)} of {size} GB" for size in (24, 48, 80, 141))
    idle = " A worker uses one GPU." if memory.gpus(141) > 1 else ""
    parts = f"Memory of a worker: about {memory.total / 1e9:,.1f} GB ({in_words(memory)})."
    return f"{parts} GPUs that hold it: {needed}.{idle}"


def _packs_in_words(packs: ExpectedPacks) -> str:
    together = (
        f"Packs: {counted(packs.cells, 'cell')} of {', '.join(packs.labels)} train up to {packs.most_cells} at a time "
        f"in a worker, in at least {counted(packs.packs, 'pack')}. Weights, gradients and optimizer of a pack's "
        f"adapters take {OPTIMIZER_BYTES * packs.peak_parameters / 1e6:,.1f} MB; activations grow with the lanes of a "
        "pass. The times are those of cells one after another, which packs do not exceed."
    )
    alone = "" if not packs.alone else f" These train alone: {', '.join(packs.alone)}."
    return together + alone


def _notes(estimate: SweepEstimate) -> list[Table | str]:
    notes: list[Table | str] = [escape(f"Data: {sizes_in_words(estimate.splits)}.")]
    notes += [escape(f"Warning: {warning}.") for warning in estimate.warnings]
    if estimate.memory is not None:
        notes.append(escape(_memory_in_words(estimate.memory)))
    if estimate.packs is not None:
        notes.append(escape(_packs_in_words(estimate.packs)))
    if estimate.sizes_are_packaged:
        notes.append(
            f"The configuration of {estimate.model} cannot be reached: the copy that comes with adapad-ray was used."
        )
    if estimate.tokens_are_words:
        notes.append("No tokenizer was found: words are counted as tokens, so FLOPs and times are too low.")
    if estimate.rows_are_assumed:
        notes.append(
            f"The data cannot be reached: {estimate.examples['train']:,} training examples of max_length tokens are "
            "assumed, so FLOPs and times are upper bounds."
        )
    if estimate.parents["cells"]:
        at_most = "at most " if estimate.cells["tune"] else ""
        notes.append(
            f"{at_most}{counted(estimate.parents['trained'], 'training')} of parents instead of "
            f"{counted(estimate.parents['cells'], 'adapter')}: post-hoc cells share them, and the TFLOP of their rows "
            "are counted once."
        )
    notes.append("Counted from the model's configuration; no weights were read.")
    cells = estimate.cells
    counts = f"{counted(cells['tune'], 'cell')} to tune and {cells['curve']} of the curve"
    if "search" in cells:
        counts = (
            f"{counted(cells['search'], 'trial')} to search, at most {counted(cells['front'], 'cell')} to train their "
            f"front again and {cells['curve']} of the curve"
        )
    time = duration(estimate.single_worker_seconds)
    about = "about" if estimate.throughput.measured else "at least about"
    return [*notes, f"{counts}; {about} {time} with one worker, at {estimate.throughput.basis}."]


def available_table(points: Sequence[AvailablePoint]) -> Table:
    """What a sweep can export; sizes of several seeds as a range."""
    table = _table(("method", "budget", "--prefix", "parameters", "seeds"))
    for point in points:
        low, high = min(point.parameters), max(point.parameters)
        table.add_row(
            point.label,
            f"{point.budget:,}",
            "–" if point.prefix is None else str(point.prefix),
            f"{low:,}" if low == high else f"{low:,}–{high:,}",
            ", ".join(map(str, point.seeds)),
        )
    if any(point.prefix is not None for point in points):
        table.caption, table.caption_justify = "--prefix: the first components of every module of a trained one", "left"
    return table


def compression_table(report: CompressionReport) -> Table:
    """What the cut did: one row per kind of module (its path inside its layer), and the sum."""
    headings = (
        "modules",
        "number",
        "rank before",
        "rank now",
        "energy kept",
        "parameters before",
        "parameters now",
    )
    table = _table(headings)
    kinds: dict[str, list[ModuleReport]] = {}
    for module in report.modules:
        kinds.setdefault(re.split(r"\.\d+\.", module.module)[-1], []).append(module)
    for kind, modules in kinds.items():
        table.add_row(*_compression_row(kind, modules))
    if len(kinds) > 1:
        table.add_section()
        table.add_row(*_compression_row("all", report.modules))
    return table


def compression_summary(report: CompressionReport) -> str:
    """What is left, in one line."""
    before, now = report.ranks
    remainder = "" if report.budget_remainder is None else f", {report.budget_remainder:,} of the budget left"
    return (
        f"{report.parameters:,} of {report.parameters_before:,} parameters "
        f"({report.parameters / report.parameters_before:.1%}){remainder}; {now} of {before} ranks "
        f"({now / before:.1%}); energy {report.energy_kept:.2%}, relative error of the update "
        f"{report.relative_error:.2g}"
    )


def _compression_row(kind: str, modules: Sequence[ModuleReport]) -> list[str]:
    energy = sum(m.energy for m in modules)
    return [
        kind,
        str(len(modules)),
        _range([m.rank_before for m in modules]),
        _range([m.rank for m in modules]),
        f"{sum(m.energy_kept for m in modules) / energy:.1%}" if energy else "–",
        f"{sum(m.rank_before * m.cost for m in modules):,}",
        f"{sum(m.rank * m.cost for m in modules):,}",
    ]


def _table(headings: Sequence[str], *, title: str | None = None, no_wrap: bool = False) -> Table:
    """A table of numbers: the first column is aligned left, the others right."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left", no_wrap=no_wrap)
    return table


def fitted(table: Table, console: Console, optional: Sequence[str]) -> Table:
    """The table without those optional columns, the first first, for which the terminal is too narrow: it says so."""
    unbounded, left_out = console.options.update(max_width=10_000), []
    for heading in optional:
        if Measurement.get(console, unbounded, table).maximum <= console.width:
            break
        kept = [column for column in table.columns if column.header != heading]
        left_out += [heading] * (len(kept) < len(table.columns))
        table.columns = kept
    if left_out:
        table.caption, table.caption_justify = f"too narrow for: {', '.join(left_out)}", "left"
    return table


def _range(ranks: Sequence[int]) -> str:
    low, high = min(ranks), max(ranks)
    return str(low) if low == high else f"{low}–{high}, mean {sum(ranks) / len(ranks):.1f}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
