"""The trials of the tune stage."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from adapad_ray.report.edges import edges_of
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
    score: float
    """What the stage maximises (`CellResult.tuning_score`)."""
    validation: float
    """The metric."""
    loss: float | None
    used: bool
    """Whether the cells of the curve used these settings."""


@dataclass(frozen=True)
class Tuning(Section):
    """All trials with their validation metric."""

    heading = "What was tuned"

    trials: list[TunedTrial]
    metric: str
    edges: list[str]
    """A sentence for every best value at the edge of those tried."""

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self | None:
        trials = tuned_trials(sweep.results)
        return cls(trials, metric_name(sweep.metric), _edges(sweep.results)) if trials else None

    def words(self) -> Iterator[Block]:
        yield Table(
            ["method", "budget", "seed", "settings tried", "validation loss", f"validation {self.metric}", "used"],
            [
                [
                    t.label,
                    count(t.budget),
                    t.seed,
                    settings_list(t.settings),
                    "–" if t.loss is None else f"{t.loss:.4f}",
                    share(t.validation),
                    mark(t.used),
                ]
                for t in self.trials
            ],
            styles={3: "wrap"},
        )
        yield note(
            "All trials of the tune stage, on the validation split, the best first. The loss decides, because it "
            "is finer than the metric. ● marks the settings that the curve used."
        )
        for edge in self.edges:
            yield note(f"{edge}.")


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
            trials.append(
                TunedTrial(
                    label,
                    cell.identity.budget,
                    cell.identity.seed,
                    tried,
                    cell.tuning_score,
                    cell.score,
                    cell.final.validation_loss,
                    used,
                )
            )
    return sorted(trials, key=lambda t: (t.label, t.budget or 0, -t.score, not t.used, list(t.settings.items())))


def _edges(results: Sequence[CellResult]) -> list[str]:
    """The sentences of `edges_of` for every label and tuned budget.

    The order of the points is not recorded: of equal trials, one whose settings the curve used comes first.
    """
    groups: dict[tuple[str, int | None], list[CellResult]] = {}
    for result in results:
        if result.identity.stage == "tune":
            groups.setdefault((result.identity.label, result.identity.budget), []).append(result)
    sentences = []
    for (label, budget), cells in groups.items():
        settings = [{**cell.identity.training, **cell.identity.config} for cell in cells]
        varied = [name for name in settings[0] if len({repr(values.get(name)) for values in settings}) > 1]
        curve = [r.identity for r in results if r.identity.stage == "curve" and r.identity.label == label]
        in_curve = [_of(varied, {**identity.training, **identity.config}) for identity in curve]
        tried = [(cell.tuning_score, _of(varied, values)) for cell, values in zip(cells, settings, strict=True)]
        tried.sort(key=lambda trial: trial[1] not in in_curve)
        where = label if budget is None else f"{label} at {budget:,}"
        sentences += [f"{where}: {edge}" for edge in edges_of(tried)]
    return sentences


def _of(names: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _settings(cell: CellResult) -> dict[str, str]:
    values = {**cell.identity.training, **cell.identity.config}
    return {name: json.dumps(value, default=str).strip('"') for name, value in values.items()}
