"""What a search has found: its trials, the front, what mattered, and whether the front beats the file's own settings.

The front is chosen on the validation split from one training run a trial, so its values there are flattering. Its
configurations are therefore trained again with every seed, and only these cells are compared, on the test split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from adapad_ray.files import atomic_path
from adapad_ray.quiet import quiet_optuna
from adapad_ray.report.curves import Curves, PointKey
from adapad_ray.report.differences import ERROR_RATE
from adapad_ray.report.figures import GREY, PALETTE, STYLE
from adapad_ray.report.inputs import SearchedLabel
from adapad_ray.report.records import DATABASE, REASON
from adapad_ray.report.statistics import holm, pareto_front

FEWEST_TRIALS = 8
"""Finished trials below which nothing is said of importance. Ours."""


@dataclass(frozen=True)
class Contest:
    """A point of the file's own settings, against the front's configuration of at most its size that is best on
    validation. The difference is on the test split, front minus default, paired by seed and item."""

    default: str
    default_parameters: float
    front: str | None = None
    """None: no configuration trained again is as small."""
    front_parameters: float = float("nan")
    difference: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    p_adjusted: float = 1.0
    """After Holm's correction over all contests of the report."""

    @property
    def ahead(self) -> bool:
        """Whether the front dominates the point on the means."""
        smaller = self.front_parameters < self.default_parameters
        return self.difference > 0 or (self.difference == 0 and smaller)

    @property
    def shown(self) -> bool:
        """Whether the better metric is established."""
        return self.difference > 0 and self.p_adjusted < ERROR_RATE

    @property
    def sentence(self) -> str:
        """For humans, in points (hundredths of the metric)."""
        where = f"{self.default} ({self.default_parameters:,.0f} parameters)"
        if self.front is None:
            return f"{where}: nothing on the front is as small"
        standing = "established" if self.shown else "not established"
        return (
            f"{where}: the front has {self.front} ({self.front_parameters:,.0f}), {100 * self.difference:+.1f} points "
            f"on the test split (95 % interval {100 * self.low:.1f} to {100 * self.high:.1f}, adjusted p "
            f"{self.p_adjusted:.3f}: {standing})"
        )


@dataclass(frozen=True)
class SearchView:
    """One label's search, ready to be shown."""

    label: str
    front_label: str
    asked: int
    trials: pd.DataFrame
    """A row a trial: `trial`, `state`, `validation`, `parameters`, `front`, `rerun`, `reason`, and what was set."""
    settings: list[str]
    importances: list[dict[str, Any]]
    """`name`, and its share in the variance of `metric` and `parameters` over the trials; empty with few trials."""
    contests: list[Contest]

    @property
    def verdict(self) -> str:
        """Whether the front dominates the default's points, in one sentence."""
        n, ahead = len(self.contests), sum(contest.ahead for contest in self.contests)
        if not any(contest.front for contest in self.contests):
            return f"The front of {self.label} cannot be judged: it has not been trained again with every seed."
        beyond = f"beyond chance it is better than {sum(contest.shown for contest in self.contests)}"
        if ahead == n:
            return f"The front of {self.label} dominates all {n} points of the file's settings on test; {beyond}."
        return (
            f"The front of {self.label} does not dominate the points of the file's settings on test: it is ahead of "
            f"{ahead} of {n}; {beyond}."
        )


def read_searches(folder: Path, searched: Sequence[SearchedLabel], curves: Curves) -> list[SearchView]:
    """The searches of a sweep's folder, beside the curve's points."""
    if not searched or not (folder / DATABASE).exists():
        return []
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / DATABASE}")
    views = []
    for search in searched:
        study = optuna.load_study(study_name=search.study, storage=storage)
        trials = study.get_trials(deepcopy=False)[: search.trials]
        settings = sorted(
            {name for trial in trials for name in trial.params}, key=lambda name: (name != "budget", name)
        )
        table = _table(trials, search, settings)
        contests = _contests(curves, search)
        importances = _importances(trials, settings)
        views.append(
            SearchView(search.label, search.front_label, search.trials, table, settings, importances, contests)
        )
    storage.remove_session()
    storage.engine.dispose()
    return _holm(views)


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
    for index in (0, 1):
        values = [trial.values[index] for trial in done]
        if np.ptp(values) == 0:
            shares.append({})
            continue
        evaluator = FanovaImportanceEvaluator(seed=0)
        shares.append(get_param_importances(study, evaluator=evaluator, target=lambda t, i=index: t.values[i]))
    rows = [
        {"name": name, "metric": shares[0].get(name, float("nan")), "parameters": shares[1].get(name, float("nan"))}
        for name in settings
    ]
    return sorted(rows, key=lambda row: -np.nan_to_num(row["metric"]))


def _contests(curves: Curves, search: SearchedLabel) -> list[Contest]:
    size = {key: float(np.mean([point.parameters for _, point in group])) for key, group in curves.points.items()}
    finals = [key for key in curves.points if key.kind == "final" and key.budget is not None]
    front = [key for key in finals if key.label == search.front_label]
    contests = []
    for default in (key for key in finals if key.label == search.label):
        name = f"{default.label} at {default.budget:,}"
        small = [key for key in front if size[key] <= size[default]]
        chosen = max(small, key=lambda key: float(curves.validation[key].values.mean()), default=None)
        found = None if chosen is None else curves.difference(chosen, default, "test")
        if chosen is None or found is None:
            contests.append(Contest(name, size[default]))
            continue
        difference = found[0]
        contests.append(
            Contest(
                name,
                size[default],
                f"{chosen.label} at {chosen.budget:,}",
                size[chosen],
                difference.mean,
                *difference.interval(),
                difference.p_value,
            )
        )
    return contests


def _holm(views: Sequence[SearchView]) -> list[SearchView]:
    """Corrects the p-values of all contests as one family."""
    fought = [contest for view in views for contest in view.contests if contest.front is not None]
    adjusted = iter(holm([contest.p_adjusted for contest in fought]))
    return [
        replace(
            view,
            contests=[c if c.front is None else replace(c, p_adjusted=next(adjusted)) for c in view.contests],
        )
        for view in views
    ]


def write_trials_csv(views: Sequence[SearchView], path: Path) -> None:
    """Writes every trial as CSV, atomically."""
    table = pd.concat([view.trials.assign(label=view.label) for view in views], ignore_index=True)
    with atomic_path(path) as temporary:
        table[["label", *table.columns.drop("label")]].to_csv(temporary, index=False)


def search_figure(views: Sequence[SearchView], curves: Curves) -> Figure:
    """Validation metric against deployed parameters, a panel a label: trials, their front, and what came of it when it
    was trained again with every seed, beside the default settings."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9.2, 0.4 + 4.4 * len(views)), layout="constrained")
        panels = figure.subplots(len(views), 1, squeeze=False)[:, 0]
        for axes, view in zip(panels, views, strict=True):
            _draw_trials(axes, view, figure)
            for label, colour, marker, name in (
                (view.label, PALETTE[0], "s", "default settings, mean over seeds"),
                (view.front_label, PALETTE[1], "D", "front trained again, mean over seeds"),
            ):
                x, y = _means(curves, label)
                if x:
                    axes.plot(x, y, marker, color=colour, markerfacecolor="white", markeredgewidth=1.8, label=name)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_title(f"Search of {view.label}", loc="left", fontweight="bold")
            axes.set_xlabel("deployed adapter parameters (task head apart, log scale)")
            axes.set_ylabel(f"validation {curves.metric.replace('_', ' ')}")
            axes.grid(axis="y", color="#eceff1", linewidth=0.8)
            axes.set_axisbelow(True)
            axes.legend(frameon=False, fontsize=9, loc="best")
    return figure


def _draw_trials(axes: Axes, view: SearchView, figure: Figure) -> None:
    done = view.trials[(view.trials["state"] == "done") & (view.trials["parameters"] > 0)]
    if len(done):
        dots = axes.scatter(
            done["parameters"], done["validation"], c=done["trial"], cmap="viridis", s=28, label="trials, one seed"
        )
        figure.colorbar(dots, ax=axes, label="trial", shrink=0.7)
        front = done[done["front"]].sort_values("parameters")
        axes.step(
            front["parameters"], front["validation"], where="post", color=GREY, linewidth=1.2, label="their front"
        )
    failed = view.trials[view.trials["state"] == "failed"]
    if len(failed):
        budgets = pd.to_numeric(failed["budget"], errors="coerce")
        low = axes.get_ylim()[0]
        axes.plot(budgets, [low] * len(failed), "x", color=GREY, label="failed trials, at their budget")


def _means(curves: Curves, label: str) -> tuple[list[float], list[float]]:
    keys: list[PointKey] = [key for key in curves.points if key.label == label and key.kind == "final"]
    sizes = [float(np.mean([point.parameters for _, point in curves.points[key]])) for key in keys]
    return sizes, [float(curves.validation[key].values.mean()) for key in keys]
