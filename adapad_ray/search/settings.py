"""Settings of the stages that draw points from a search space, as in the sweep's file: `tune` and `search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from adapad_ray.search.halving import RUNGS, Rung
from adapad_ray.search.space import parse_space

BUDGET = "budget"
"""The budget's name in a search space."""
EACH = "each"
"""Value of `tune.budget` with which every budget of the curve is tuned separately."""
ENDS = "ends"
"""Value of `tune.budget` with which the smallest and the largest budget of each method are tuned."""
MOST_TRIALS = 10_000
"""Trials of one study. A project default: a plan is a table of cells in memory."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TuneStage(_Section):
    """The tune stage: every method is trained at the same number of points, at one reference budget or at each.

    A space of choices may have fewer points than there are trials: then all of them are tried.
    """

    trials: int = Field(default=6, ge=1, le=MOST_TRIALS)
    """Points per method and tuned budget."""
    budget: int | float | str
    """A reference budget that every method of the sweep can meet: the best point there is used at all budgets. Or
    `ends`: the smallest and the largest budget of each method are tuned, and between them ranges and choices of
    positive floats are interpolated; of other choices the nearer budget's is used. Or `each`: every budget of the
    curve is tuned separately."""
    space: dict[str, dict[str, list[Any]]]
    """Ranges as `{log | uniform | int: [low, high]}` or `{choice: [...]}`; a method ignores settings that it lacks."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the quasi-random list and of the training runs."""
    early_stopping: bool = False
    """Whether trials stop that are behind: by the validation score of averaged weights, half of a method's trials train
    beyond three sixteenths of the steps, and two thirds of those beyond seven. The curve does not change unless a
    stopped trial would have won."""

    @property
    def rungs(self) -> tuple[Rung, ...]:
        """Where trials are compared; none without early stopping."""
        return RUNGS if self.early_stopping else ()

    @property
    def by_budget(self) -> bool:
        """Whether budgets have settings of their own."""
        return self.budget in (ENDS, EACH)

    def tuned_budgets(self, budgets: Sequence[int | None]) -> list[int | None]:
        """Which of a method's ascending budgets are tuned, if budgets have settings of their own."""
        return sorted({budgets[0], budgets[-1]}) if self.budget == ENDS else list(budgets)  # type: ignore[type-var]

    @field_validator("space", mode="before")
    @classmethod
    def _parses(cls, space: Any) -> Any:
        if isinstance(space, Mapping):
            parse_space(space)
        return space


class SearchStage(_Section):
    """`mode: search`: Optuna searches budgets and settings together; objectives are metric (up) and parameters (down).

    Every method that is searched has its own study, with the same number of trials.
    """

    trials: int = Field(default=24, ge=1, le=MOST_TRIALS)
    """Trials of each method, failed ones included, over all launches."""
    sampler: Literal["tpe", "nsga2"] = "tpe"
    """`tpe`: multivariate, for two objectives; `nsga2`: an evolutionary search, which needs many more trials."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the sampler and of the training runs."""
    population: int = Field(default=8, ge=2, le=MOST_TRIALS)
    """Trials per generation of `nsga2`. A project default: with Optuna's 50, a short search is random only."""
    concurrency: int | None = Field(default=None, ge=1)
    """Trials at one time; default: one per worker group. With 1 the search is a function of the seed; with more it also
    depends on the order in which trials end."""
    methods: list[str] | None = Field(default=None, min_length=1)
    """Labels to search; default: all that train for a budget of their own."""
    space: dict[str, dict[str, list[Any]]]
    """Ranges as in `tune.space`; one of them is `budget`, in any form that a budget may have."""
    rerun: int = Field(default=5, ge=0)
    """Most configurations of a method's front that are retrained with every seed and tested."""

    @field_validator("space", mode="before")
    @classmethod
    def _parses(cls, space: Any) -> Any:
        if not isinstance(space, Mapping):
            return space
        if BUDGET not in space:
            raise ValueError("budget is missing: the search trades it against the metric, as in {log: [10k, 160k]}")
        settings = {name: values for name, values in space.items() if name != BUDGET}
        if settings:  # budgets are parsed when the model is known
            parse_space(settings, "search.space")
        return space
