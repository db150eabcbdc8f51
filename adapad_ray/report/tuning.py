"""What was tuned: every trial of the tune stage with the settings that its label's trials differ in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from adapad_ray.results import CellResult


@dataclass(frozen=True)
class TunedTrial:
    """One trial of the tune stage."""

    label: str
    budget: int | None
    seed: int
    settings: dict[str, str]
    """Settings in which the label's trials differ."""
    validation: float
    used: bool
    """Whether cells of the curve ran with these settings."""


def tuned_trials(results: Sequence[CellResult]) -> list[TunedTrial]:
    """The tune stage's trials by label and budget, the best on validation first."""
    tried: dict[str, list[CellResult]] = {}
    for result in results:
        if result.identity.stage == "tune":
            tried.setdefault(result.identity.label, []).append(result)
    trials = []
    for label, cells in tried.items():
        settings = [_settings(cell) for cell in cells]
        names = sorted({name for own in settings for name in own})
        varied = [name for name in names if len({own.get(name) for own in settings}) > 1]
        ran = [
            {name: own.get(name) for name in varied}
            for own in (_settings(r) for r in results if r.identity.stage == "curve" and r.identity.label == label)
        ]
        for cell, own in zip(cells, settings, strict=True):
            here = {name: own[name] for name in varied if name in own}
            used = bool(varied) and {name: own.get(name) for name in varied} in ran
            value = cell.final.validation[cell.metric]
            trials.append(TunedTrial(label, cell.identity.budget, cell.identity.seed, here, value, used))
    return sorted(trials, key=lambda t: (t.label, t.budget or 0, -t.validation, list(t.settings.items())))


def _settings(cell: CellResult) -> dict[str, str]:
    values = {**cell.identity.training, **cell.identity.config}
    return {name: json.dumps(value, default=str).strip('"') for name, value in values.items()}
