"""Optuna's studies of a sweep, in one SQLite file of its folder that `optuna-dashboard` opens.

The studies of the tune stage are a view of its finished cells and can be rebuilt at any time. The study of a search is
the record of its trials, failed ones included, and the next launch continues from it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from adapad_ray.files import atomic_path, sqlite_url
from adapad_ray.quiet import quiet_optuna
from adapad_ray.report.records import DATABASE, REASON
from adapad_ray.report.statistics import pareto_front
from adapad_ray.search.settings import BUDGET, SearchStage
from adapad_ray.search.space import Distributions, point_of
from adapad_ray.training.randomness import derive_seed


def open_storage(folder: Path) -> optuna.storages.RDBStorage:
    """Opens the database of a sweep's folder; creates it atomically, so that a kill leaves no half of its tables."""
    path = folder / DATABASE
    with quiet_optuna():
        if not path.exists():
            with atomic_path(path) as scratch:
                fresh = optuna.storages.RDBStorage(sqlite_url(scratch))
                fresh.remove_session()
                fresh.engine.dispose()
        return optuna.storages.RDBStorage(sqlite_url(path))


@dataclass(frozen=True)
class SearchTrial:
    """One trial of a search."""

    number: int
    point: dict[str, Any]
    state: Literal["open", "done", "failed"]
    """`failed`: its configuration cannot be built or diverges. `open`: this launch or a later one will run it."""
    score: float | None = None
    """Validation metric."""
    parameters: int | None = None
    """Deployed adapter parameters."""


class SearchStudy:
    """The search of one label: its trials, as many as `stage.trials` over all launches.

    Trials that a killed driver left open come first, with the parameters that they had. Trial n is drawn by a sampler
    seeded with the search's seed and n, so that no launch repeats the random draws of another.
    """

    def __init__(
        self, storage: optuna.storages.BaseStorage, name: str, space: Distributions, stage: SearchStage
    ) -> None:
        self.name = name
        self._storage, self._space, self._stage = storage, dict(space), stage
        self._taken: set[int] = set()
        with quiet_optuna(), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study = optuna.create_study(
                storage=storage, study_name=name, directions=["maximize", "minimize"], load_if_exists=True
            )
            self._study.set_metric_names(["validation metric", "deployed parameters"])

    @property
    def trials(self) -> list[SearchTrial]:
        """The trials so far, without those beyond `stage.trials` of a search that was longer before."""
        return [self._read(trial) for trial in self._trials() if self._complete(trial)]

    @property
    def over(self) -> bool:
        """Whether every trial has ended."""
        trials = self._trials()
        return len(trials) == self._stage.trials and all(trial.state.is_finished() for trial in trials)

    @property
    def remaining(self) -> int:
        """Number of trials that have not ended, or not begun."""
        return self._stage.trials - sum(bool(trial.state.is_finished()) for trial in self._trials())

    def take(self) -> SearchTrial | None:
        """The next trial to run; each is returned once per launch, and None when there is no other."""
        trials = self._trials()
        for frozen in trials:
            if not frozen.state.is_finished() and frozen.number not in self._taken:
                self._study.sampler = self._sampler(frozen.number)
                return self._draw(optuna.trial.Trial(self._study, frozen._trial_id))
        if len(trials) == self._stage.trials:
            return None
        self._study.sampler = self._sampler(len(trials))
        return self._draw(self._study.ask())

    def complete(self, number: int, score: float, parameters: int) -> None:
        """Records the two values of a trial: validation metric and deployed adapter parameters."""
        self._study.tell(number, [score, float(parameters)])

    def fail(self, number: int, reason: str) -> None:
        """Records that a trial has failed because of its configuration. It counts as a trial, and is not pruned."""
        self._storage.set_trial_user_attr(self._trials()[number]._trial_id, REASON, reason)
        self._study.tell(number, state=TrialState.FAIL)

    def front(self) -> list[SearchTrial]:
        """The trials to retrain, smallest first: the Pareto front of (validation metric, parameters).

        For each budget only the best trial counts. If there are more than `stage.rerun`, the largest one and others at
        even distances in the list are chosen.
        """
        done = [trial for trial in self.trials if trial.state == "done"]
        best = pareto_front([t.parameters or 0 for t in done], [t.score or 0.0 for t in done])
        by_budget: dict[int, SearchTrial] = {}
        for trial, on_front in sorted(zip(done, best, strict=True), key=lambda pair: pair[0].score or 0.0):
            if on_front:
                by_budget[trial.point[BUDGET]] = trial
        front = sorted(by_budget.values(), key=lambda trial: trial.parameters or 0)
        count = min(self._stage.rerun, len(front))
        chosen = {round(i) for i in np.linspace(len(front) - 1, 0, count)}
        return [front[i] for i in sorted(chosen)]

    def _trials(self) -> list[FrozenTrial]:
        return list(self._study.get_trials(deepcopy=False)[: self._stage.trials])

    def _complete(self, trial: FrozenTrial) -> bool:
        """Whether all its parameters are drawn: a kill may fall between two."""
        return set(trial.params) == set(self._space)

    def _read(self, trial: FrozenTrial) -> SearchTrial:
        point = point_of(trial.params, self._space)
        if trial.state == TrialState.COMPLETE:
            return SearchTrial(trial.number, point, "done", trial.values[0], round(trial.values[1]))
        return SearchTrial(trial.number, point, "failed" if trial.state.is_finished() else "open")

    def _draw(self, trial: optuna.trial.Trial) -> SearchTrial:
        """Draws the parameters that the trial does not have yet."""
        self._taken.add(trial.number)
        params = {name: _suggest(trial, name, distribution) for name, distribution in self._space.items()}
        return SearchTrial(trial.number, point_of(params, self._space), "open")

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = derive_seed(self._stage.seed, "trial", number) % 2**32
        if self._stage.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=self._stage.population, seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed)


def _suggest(trial: optuna.trial.Trial, name: str, distribution: optuna.distributions.BaseDistribution) -> Any:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, optuna.distributions.IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, optuna.distributions.FloatDistribution)
    return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def search_name(sweep: str, label: str, cell_id: str, space: Distributions, stage: SearchStage) -> str:
    """Name of a label's study: it changes with everything that the trials depend on, except their number.

    `cell_id` is the id of a cell of the label, which identifies method, settings, model and data.
    """
    content = [
        cell_id,
        _as_json(space),
        stage.sampler,
        stage.seed,
        stage.population if stage.sampler == "nsga2" else None,
    ]
    return f"{sweep}/{label}/{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class TunedTrial:
    """How a trial of the tune stage has ended."""

    point: Mapping[str, Any]
    state: TrialState
    """`PRUNED`: it was stopped early."""
    score: float | None = None
    """None if it has failed; of a trial that was stopped, that of its last rung, if it was finite."""
    rungs: Mapping[int, float] = field(default_factory=dict)
    """Optimizer step → score."""


def align_study(
    storage: optuna.storages.BaseStorage, name: str, space: Distributions, ended: Sequence[TunedTrial]
) -> None:
    """Makes a study of the tune stage hold exactly these trials.

    The study is rebuilt if a killed driver left open trials, or if the sweep's file has changed: Optuna refuses a trial
    whose space is not that of the trials before it.
    """
    trials = [
        optuna.create_trial(
            state=trial.state,
            params=dict(trial.point),
            distributions=dict(space),
            value=trial.score,
            intermediate_values=dict(trial.rungs),
        )
        for trial in ended
    ]
    existing = {summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)}
    if name in existing:
        known = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        if Counter(map(_key, trials)) == Counter(map(_key, known)):
            return
        optuna.delete_study(study_name=name, storage=storage)
    if trials:
        with quiet_optuna():
            study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        study.add_trials(trials)


def _key(trial: FrozenTrial) -> tuple[object, ...]:
    rungs = tuple(sorted(trial.intermediate_values.items()))
    return json.dumps([trial.params, _as_json(trial.distributions)], sort_keys=True), trial.value, trial.state, rungs


def _as_json(space: Distributions) -> dict[str, str]:
    return {name: optuna.distributions.distribution_to_json(distribution) for name, distribution in space.items()}
