"""Which cells of a planned sweep train side by side, in how many packs, and what their state takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from adapad_ray.sweep.planning.packing import most_cells, pass_key, shares_passes
from adapad_ray.sweep.planning.plan import SweepPlan, tuned_rows
from adapad_ray.sweep.spec import SweepSpec


@dataclass(frozen=True)
class ExpectedPacks:
    """The packs of a sweep whose cells may share passes."""

    labels: tuple[str, ...]
    """Those whose cells train in packs."""
    alone: tuple[str, ...]
    """Those whose cells share no pass."""
    cells: int
    """Of the tune stage and the curve, in packs."""
    packs: int
    """At least so many: the cells that agree in what a pass has in common, by the most that a worker takes."""
    most_cells: int
    """Of one worker at one time."""
    peak_parameters: int
    """Most adapter parameters in training in one pack."""


def expected_packs(spec: SweepSpec, plan: SweepPlan) -> ExpectedPacks | None:
    """Return the packs of a planned sweep; None without any."""
    settings = {label: spec.training_settings(label) for label in dict.fromkeys(row.label for row in plan.rows)}
    rows = [row for row in plan.rows if shares_passes(spec, type(row.method), settings[row.label])]
    if spec.resources.workers > 1 or not rows:
        return None
    keys = {label: pass_key(of_label.model_dump()) for label, of_label in settings.items()}
    labels = tuple(dict.fromkeys(row.label for row in rows))
    most, counts, largest = most_cells(spec.resources), Counter[str](), Counter[str]()
    for row in rows:
        key = keys[row.label]
        counts[key] += len(spec.seeds)
        largest[key] = max(largest[key], row.plan.peak_parameters)
    if spec.tune is not None:
        for label in (row.label for row in tuned_rows(spec, rows)) if spec.tune.by_budget else labels:
            counts[keys[label]] += spec.tune_trials(label)
    return ExpectedPacks(
        labels=labels,
        alone=tuple(label for label in settings if label not in labels),
        cells=counts.total(),
        packs=sum(-(-count // most) for count in counts.values()),
        most_cells=most,
        peak_parameters=max(min(most, counts[key]) * largest[key] for key in counts),
    )
