"""The trials of the tune stage."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from adapad_ray.report.edges import edges_of
from adapad_ray.report.inputs import StoppedTrial
from adapad_ray.report.section import Section
from adapad_ray.report.style.blocks import Block, Table, Text, mark, note, settings_list
from adapad_ray.report.style.formatting import count, metric_name, share
from adapad_ray.report.sweep_results import SweepResults
from adapad_ray.results import CellResult
from adapad_ray.wording import counted


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
    steps: int
    """Optimizer steps."""
    used: bool
    """Whether the cells of the curve used these settings."""


@dataclass(frozen=True)
class Tuning(Section):
    """All trials with their validation metric."""

    heading = "What was tuned"

    trials: list[TunedTrial]
    stopped: list[StoppedTrial]
    """Trials that were stopped early."""
    metric: str
    edges: list[str]
    """A sentence for every best value at the edge of those tried."""

    @classmethod
    def compute(cls, sweep: SweepResults) -> Self | None:
        stopped = sweep.inputs.stopped
        trials = tuned_trials(sweep.results, stopped)
        if not trials:
            return None
        return cls(trials, sorted(stopped, key=_best_first), metric_name(sweep.metric), _edges(sweep.results, stopped))

    def words(self) -> Iterator[Block]:
        yield Table(
            ["method", "budget", "seed", "settings tried", "validation loss", f"validation {self.metric}", "used"],
            [*map(_row, self.trials), *map(_row_of_stopped, self.stopped)],
            styles={3: "wrap"},
        )
        yield note(
            "All trials of the tune stage, on the validation split, by method and budget, the best first; those that "
            "stopped early come last, with what they had there. The loss decides, because it is finer than the metric. "
            "● marks the settings that the curve used."
        )
        if self.stopped:
            yield note(self._stopping())
        for edge in self.edges:
            yield note(f"{edge}.")

    def _stopping(self) -> str:
        trials = len(self.trials) + len(self.stopped)
        steps = sum(trial.steps for trial in self.trials)
        whole = steps + sum(trial.steps for trial in self.stopped)
        done = steps + sum(trial.step for trial in self.stopped)
        return (
            f"{len(self.stopped)} of {counted(trials, 'trial')} stopped early, because others had a better validation "
            "score after as many steps (on a sample of the split, with averaged weights). In all, "
            f"{done / whole:.0%} of the optimizer steps of the trials were done."
        )


def _best_first(t: StoppedTrial) -> tuple[str, int, int, float]:
    return t.label, t.budget or 0, -t.step, math.inf if t.score is None else -t.score


def _row(t: TunedTrial) -> list[Text | int]:
    loss = "–" if t.loss is None else f"{t.loss:.4f}"
    return [t.label, count(t.budget), t.seed, settings_list(t.settings), loss, share(t.validation), mark(t.used)]


def _row_of_stopped(t: StoppedTrial) -> list[Text | int]:
    where, loss, metric = f"at step {t.step:,} of {t.steps:,}", "–", "–"
    if t.loss is not None:
        loss = f"{t.loss:.4f} {where}"
    elif t.score is not None:
        metric = f"{share(t.score)} {where}"
    return [t.label, count(t.budget), t.seed, settings_list(_words(t.settings)), loss, metric, mark(False)]


def tuned_trials(results: Sequence[CellResult], stopped: Sequence[StoppedTrial] = ()) -> list[TunedTrial]:
    """The finished trials of the tune stage by label and budget, the best on validation first.

    Settings that only trials have which were `stopped` early are listed too.
    """
    tuned: dict[str, list[CellResult]] = {}
    for result in results:
        if result.identity.stage == "tune":
            tuned.setdefault(result.identity.label, []).append(result)
    trials = []
    for label, cells in tuned.items():
        settings = [_settings(cell) for cell in cells]
        names = sorted({name for values in settings for name in values})
        tried_elsewhere = [_words(trial.settings) for trial in stopped if trial.label == label]
        varied = [
            name
            for name in names
            if len({values.get(name) for values in settings} | {v[name] for v in tried_elsewhere if name in v}) > 1
        ]
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
                    cell.cost.steps,
                    used,
                )
            )
    return sorted(trials, key=lambda t: (t.label, t.budget or 0, -t.score, not t.used, list(t.settings.items())))


def _edges(results: Sequence[CellResult], stopped: Sequence[StoppedTrial]) -> list[str]:
    """The sentences of `edges_of` for every label and tuned budget. A stopped trial was tried, and is not the best.

    The order of the points is not recorded: of equal trials, one whose settings the curve used comes first.
    """
    groups: dict[tuple[str, int | None], list[CellResult]] = {}
    for result in results:
        if result.identity.stage == "tune":
            groups.setdefault((result.identity.label, result.identity.budget), []).append(result)
    sentences = []
    for (label, budget), cells in groups.items():
        settings = [{**cell.identity.training, **cell.identity.config} for cell in cells]
        worse = [trial.settings for trial in stopped if (trial.label, trial.budget) == (label, budget)]
        settings_tried = [*settings, *worse]
        varied = [
            name for name in settings[0] if len({repr(values[name]) for values in settings_tried if name in values}) > 1
        ]
        curve = [r.identity for r in results if r.identity.stage == "curve" and r.identity.label == label]
        in_curve = [_of(varied, {**identity.training, **identity.config}) for identity in curve]
        tried = [(cell.tuning_score, _of(varied, values)) for cell, values in zip(cells, settings, strict=True)]
        tried += [(-math.inf, _of(varied, values)) for values in worse]
        tried.sort(key=lambda trial: trial[1] not in in_curve)
        where = label if budget is None else f"{label} at {budget:,}"
        sentences += [f"{where}: {edge}" for edge in edges_of(tried)]
    return sentences


def _of(names: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


def _settings(cell: CellResult) -> dict[str, str]:
    return _words({**cell.identity.training, **cell.identity.config})


def _words(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: json.dumps(value, default=str).strip('"') for name, value in values.items()}
