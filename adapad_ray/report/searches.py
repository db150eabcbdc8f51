"""The searches of a sweep: their trials, Pareto front and parameter importances, and the front against the defaults.

A search selects its front on the validation split from one training run a trial, so the scores there are optimistic.
The sweep therefore retrains the front's configurations with every seed, and only these cells are compared on the test
split with the *default points*: the cells that use the settings of the sweep's file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from adapad_ray.files import sqlite_url
from adapad_ray.quiet import quiet_optuna
from adapad_ray.report.curves import Curves
from adapad_ray.report.differences import ERROR_RATE
from adapad_ray.report.inputs import SearchedLabel
from adapad_ray.report.records import DATABASE, REASON
from adapad_ray.report.statistics import holm, pareto_front

FEWEST_TRIALS = 8
"""Finished trials from which importances are computed (a project default)."""


@dataclass(frozen=True)
class FrontComparison:
    """A default point against the retrained front, on the test split, paired by seed and item.

    Of the front's configurations that are at most as large as the default point, the best on validation is compared.
    """

    default: str
    default_parameters: float
    front: str | None = None
    """None: no retrained configuration is as small."""
    front_parameters: float = float("nan")
    difference: float = float("nan")
    """Front minus default."""
    low: float = float("nan")
    high: float = float("nan")
    """95 % interval of the difference."""
    p_adjusted: float = 1.0
    """After Holm's correction over all comparisons of fronts in the report."""

    @property
    def dominates(self) -> bool:
        """Whether the front dominates the default point in terms of means."""
        smaller = self.front_parameters < self.default_parameters
        return self.difference > 0 or (self.difference == 0 and smaller)

    @property
    def significantly_better(self) -> bool:
        """Whether the front's metric is significantly better, at the family-wise error rate of 5 %."""
        return self.difference > 0 and self.p_adjusted < ERROR_RATE

    @property
    def sentence(self) -> str:
        """The comparison in words, in points (hundredths of the metric)."""
        where = f"{self.default} ({self.default_parameters:,.0f} parameters)"
        if self.front is None:
            return f"{where}: no configuration on the front is as small"
        judgement = "significantly better" if self.significantly_better else "not significantly better"
        return (
            f"{where}: the front has {self.front} ({self.front_parameters:,.0f}), {100 * self.difference:+.1f} points "
            f"on the test split (95 % interval {100 * self.low:.1f} to {100 * self.high:.1f}, adjusted p "
            f"{self.p_adjusted:.3f}: {judgement})"
        )


@dataclass(frozen=True)
class Search:
    """The search of one label."""

    label: str
    front_label: str
    requested: int
    """Trials that the sweep's file requests."""
    trials: pd.DataFrame
    """One row per trial: `trial`, `state`, `validation`, `parameters`, `front`, `rerun`, `reason` and the settings."""
    settings: list[str]
    """Names of the searched settings, `budget` first."""
    importances: list[dict[str, Any]]
    """`name`, and its share of the variance of `metric` and of `parameters` over the trials; empty with few trials."""
    comparisons: list[FrontComparison]

    @property
    def verdict(self) -> str:
        """Whether the front dominates the default points, in one sentence."""
        count, ahead = len(self.comparisons), sum(comparison.dominates for comparison in self.comparisons)
        if not any(comparison.front for comparison in self.comparisons):
            return f"The front of {self.label} cannot be judged: it has not been retrained with every seed."
        significant = sum(comparison.significantly_better for comparison in self.comparisons)
        beyond = f"it is significantly better than {significant}"
        if ahead == count:
            return f"On the test split the front of {self.label} dominates all {count} default points; {beyond}."
        return (
            f"On the test split the front of {self.label} does not dominate the default points: it is ahead of "
            f"{ahead} of {count}; {beyond}."
        )


def load_searches(folder: Path, searched: Sequence[SearchedLabel], curves: Curves) -> list[Search]:
    """Loads the searches from a sweep's folder and compares their fronts with the curve's default points."""
    if not searched or not (folder / DATABASE).exists():
        return []
    storage = optuna.storages.RDBStorage(sqlite_url(folder / DATABASE))
    searches = []
    for search in searched:
        study = optuna.load_study(study_name=search.study, storage=storage)
        trials = study.get_trials(deepcopy=False)[: search.trials]
        settings = sorted(
            {name for trial in trials for name in trial.params}, key=lambda name: (name != "budget", name)
        )
        searches.append(
            Search(
                label=search.label,
                front_label=search.front_label,
                requested=search.trials,
                trials=_table(trials, search, settings),
                settings=settings,
                importances=_importances(trials, settings),
                comparisons=_comparisons(curves, search),
            )
        )
    storage.remove_session()
    storage.engine.dispose()
    return _corrected(searches)


def trials_table(searches: Sequence[Search]) -> pd.DataFrame:
    """All trials of all searches, with the label first."""
    table = pd.concat([search.trials.assign(label=search.label) for search in searches], ignore_index=True)
    return table[["label", *table.columns.drop("label")]]


def _table(trials: Sequence[FrozenTrial], search: SearchedLabel, settings: Sequence[str]) -> pd.DataFrame:
    states = {TrialState.COMPLETE: "done", TrialState.FAIL: "failed"}
    rows = []
    for trial in trials:
        validation, parameters = trial.values or (float("nan"), float("nan"))
        row: dict[str, Any] = {"trial": trial.number, "state": states.get(trial.state, "open")}
        row |= {"validation": validation, "parameters": parameters, "rerun": trial.number in search.front}
        row |= {"reason": trial.user_attrs.get(REASON, "") if trial.state == TrialState.FAIL else ""}
        rows.append(row | {name: trial.params.get(name) for name in settings})
    columns = ["trial", "state", "validation", "parameters", "rerun", "reason", *settings]
    table = pd.DataFrame(rows, columns=columns)
    done = table["state"] == "done"
    table["front"] = False
    table.loc[done, "front"] = pareto_front(table.loc[done, "parameters"], table.loc[done, "validation"])
    return table


def _importances(trials: Sequence[FrozenTrial], settings: Sequence[str]) -> list[dict[str, Any]]:
    """fANOVA (Hutter et al., 2014) over the finished trials."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len(done) < FEWEST_TRIALS:
        return []
    with quiet_optuna():
        study = optuna.create_study(directions=["maximize", "minimize"])
    study.add_trials(done)
    shares: list[dict[str, float]] = []
    for objective in (0, 1):
        values = [trial.values[objective] for trial in done]
        if np.ptp(values) == 0:
            shares.append({})
            continue
        evaluator = FanovaImportanceEvaluator(seed=0)
        shares.append(get_param_importances(study, evaluator=evaluator, target=lambda t, i=objective: t.values[i]))
    rows = [
        {"name": name, "metric": shares[0].get(name, float("nan")), "parameters": shares[1].get(name, float("nan"))}
        for name in settings
    ]
    return sorted(rows, key=lambda row: -np.nan_to_num(row["metric"]))


def _comparisons(curves: Curves, search: SearchedLabel) -> list[FrontComparison]:
    finals = [key for key in curves.points if key.kind == "final" and key.budget is not None]
    front = [key for key in finals if key.label == search.front_label]
    comparisons = []
    for default in (key for key in finals if key.label == search.label):
        name, parameters = f"{default.label} at {default.budget:,}", curves.parameters(default)
        as_small = [key for key in front if curves.parameters(key) <= parameters]
        best = max(as_small, key=lambda key: float(curves.validation[key].values.mean()), default=None)
        paired = None if best is None else curves.test[best].minus(curves.test[default])
        if best is None or paired is None:
            comparisons.append(FrontComparison(name, parameters))
            continue
        low, high = paired.estimate.interval()
        comparisons.append(
            FrontComparison(
                default=name,
                default_parameters=parameters,
                front=f"{best.label} at {best.budget:,}",
                front_parameters=curves.parameters(best),
                difference=paired.estimate.mean,
                low=low,
                high=high,
                p_adjusted=paired.estimate.p_value,
            )
        )
    return comparisons


def _corrected(searches: Sequence[Search]) -> list[Search]:
    """Applies Holm's correction to the p-values of all comparisons as one family."""
    tested = [c.p_adjusted for search in searches for c in search.comparisons if c.front is not None]
    adjusted = iter(holm(tested))
    return [
        replace(
            search,
            comparisons=[c if c.front is None else replace(c, p_adjusted=next(adjusted)) for c in search.comparisons],
        )
        for search in searches
    ]
