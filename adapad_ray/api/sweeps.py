"""`plan` and `sweep`: what the commands of these names do, from a file or from a mapping."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from adapad_ray.api.loaded_sweep import LoadedSweep, load_sweep
from adapad_ray.api.notebook import html
from adapad_ray.cost.estimate import SweepEstimate, estimate_sweep
from adapad_ray.errors import BadRequestError
from adapad_ray.sweep.spec_file import overridden, parse_spec, read_content

Spec = Mapping[str, Any] | str | Path
"""A sweep's file, or what stands in one."""


class Plan:
    """What a sweep would compute; nothing has been trained."""

    def __init__(self, estimate: SweepEstimate) -> None:
        self.estimate = estimate

    @property
    def table(self) -> pd.DataFrame:
        """One row per method and budget: exact parameters, lanes, steps, FLOPs and seconds of one cell."""
        columns = ["label", "budget", "parameters", "remainder", "lanes", "steps", "train_flops", "train_seconds"]
        table = pd.DataFrame([asdict(row) for row in self.estimate.rows], columns=columns)
        return table.astype({"budget": "Int64", "remainder": "Int64"})

    @property
    def gaps(self) -> pd.DataFrame:
        """The pairs of method and budget that cannot exist, with the reasons."""
        return pd.DataFrame([asdict(gap) for gap in self.estimate.gaps], columns=["label", "budget", "reason"])

    @property
    def seconds(self) -> float:
        """Expected time of the whole sweep in one worker on this machine."""
        return self.estimate.single_worker_seconds

    def __repr__(self) -> str:
        cells = ", ".join(
            f"{count} cells of the {stage} stage" for stage, count in self.estimate.cells.items() if count
        )
        return f"<plan of {self.estimate.name}: {cells}, about {self.seconds:,.0f} s in one worker>"

    def _repr_html_(self) -> str:
        return html(repr(self)[1:-1], self.table, *([] if self.gaps.empty else [self.gaps]))


def plan(spec: Spec, **overrides: Any) -> Plan:
    """Plans a sweep: cells, exact parameters, gaps and cost. Trains nothing and reads no weights.

    Args:
        spec: a sweep's file, or a mapping of its fields.
        **overrides: fields to replace; inner ones by their dotted name, as in `**{"training.epochs": 5}`.

    Raises:
        BadRequestError: the sweep cannot be planned.
    """
    return Plan(estimate_sweep(parse_spec(_content(spec, overrides))))


def sweep(spec: Spec, out: str | Path | None = None, *, progress: bool = True, **overrides: Any) -> LoadedSweep:
    """Runs a sweep on Ray, or finishes it: computes the missing cells, writes the report, and returns the results.

    Cells that failed are listed in `failed` of the result.

    Args:
        spec: a sweep's file, or a mapping of its fields.
        out: the sweep's folder or URL; default: `<storage>/<name>`.
        progress: whether to show the progress and the curve, as `adapad sweep` does.
        **overrides: fields to replace; inner ones by their dotted name, as in `**{"training.epochs": 5}`.

    Raises:
        BadRequestError: the sweep cannot be planned or started, or all of its cells have failed.
        StorageError: the store of a URL cannot be reached; finished cells are kept.
        WorkersLostError: no worker group is left that could be set up; finished cells are kept.
    """
    from adapad_ray.sweep.folder import launch_folder

    content = _content(spec, overrides)
    with launch_folder(content, None if out is None else str(out)) as folder:
        from adapad_ray.cli.output.console import Console
        from adapad_ray.cli.output.terminal import print_error
        from adapad_ray.sweep.executor import unused_gpus
        from adapad_ray.sweep.run import Sweep

        checked = parse_spec(content)
        unused = unused_gpus(checked)
        if unused is not None:
            print_error(unused)
        console = Console()
        launch = Sweep(checked, folder, [console] if progress else [])
        for warning in launch.warnings:
            print_error(f"warning: {warning}")
        outcome = launch.run()
        if progress:
            if outcome.report is not None:
                console.report(outcome.report, folder.location)
            console.summary(outcome)
        if outcome.report is None:
            reasons = "; ".join(dict.fromkeys(cell.reason for cell in outcome.failed))
            raise BadRequestError(f"no cell of the sweep's curve is finished: {reasons}")
        location = folder.location
    return load_sweep(location)


def _content(spec: Spec, overrides: Mapping[str, Any]) -> dict[str, Any]:
    # JSON is YAML, which overrides are written in.
    pairs = [f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items()]
    if isinstance(spec, Mapping):
        return overridden(spec, pairs, name="sweep")
    return read_content(spec, pairs)
