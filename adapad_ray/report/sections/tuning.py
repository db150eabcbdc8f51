"""The trials of the tune stage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from adapad_ray.report.section import Section
from adapad_ray.report.style.blocks import Block, Table, mark, note, settings_list
from adapad_ray.report.style.formatting import count, metric_name, share
from adapad_ray.report.sweep_results import SweepResults
from adapad_ray.results import CellResult


@dataclass(frozen=True)
class TunedTrial:
    """One trial of the tune stage."""

    label: str
    budget: int | None
    seed: int
    settings: dict[str, str]
    """The settings in which the label's trials differ."""
    validation: float
    used: bool
    """Whether the cells of the curve used these settings."""


@dataclass(frozen=True)
class Tuning(Section):
    """All trials with their validation metric."""

    heading = "What was tuned"

    trials: list[TunedTrial]
    metric: str

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self | None:
        trials = tuned_trials(sweep.results)
        return cls(trials, metric_name(sweep.metric)) if trials else None

    def words(self) -> Iterator[Block]:
        yield Table(
            ["method", "budget", "seed", "settings tried", f"validation {self.metric}", "used"],
            [
                [t.label, count(t.budget), t.seed, settings_list(t.settings), share(t.validation), mark(t.used)]
                for t in self.trials
            ],
            styles={3: "wrap"},
        )
        yield note("All trials of the tune stage, on the validation split. ● marks the settings that the curve used.")


def tuned_trials(results: Sequence[CellResult]) -> list[TunedTrial]:
    """The trials of the tune stage by label and budget, the best on validation first."""
    tuned: dict[str, list[CellResult]] = {}
    for result in results:
        if result.identity.stage == "tune":
            tuned.setdefault(result.identity.label, []).append(result)
    trials = []
    for label, cells in tuned.items():
        settings = [_settings(cell) for cell in cells]
        names = sorted({name for values in settings for name in values})
        varied = [name for name in names if len({values.get(name) for values in settings}) > 1]
        curve = [_settings(r) for r in results if r.identity.stage == "curve" and r.identity.label == label]
        in_curve = [{name: values.get(name) for name in varied} for values in curve]
        for cell, values in zip(cells, settings, strict=True):
            tried = {name: values[name] for name in varied if name in values}
            used = bool(varied) and {name: values.get(name) for name in varied} in in_curve
            trials.append(TunedTrial(label, cell.identity.budget, cell.identity.seed, tried, cell.score, used))
    return sorted(trials, key=lambda t: (t.label, t.budget or 0, -t.validation, list(t.settings.items())))


def _settings(cell: CellResult) -> dict[str, str]:
    values = {**cell.identity.training, **cell.identity.config}
    return {name: json.dumps(value, default=str).strip('"') for name, value in values.items()}
