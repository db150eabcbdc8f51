"""Settings of the two stages that draw points from a search space: `tune` and `search`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from adapad_ray.search.space import parse_space

BUDGET = "budget"
"""Name of the budget in a search space."""
EACH = "each"
"""Value of `tune.budget` that tunes every budget of the curve separately."""
MOST_TRIALS = 10_000
"""Trials of one study. A project default: a plan is a table of cells in memory."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TuneStage(_Part):
    """The first stage: every method is tried at the same number of points, at one reference budget or at each."""

    trials: int = Field(default=6, ge=1, le=MOST_TRIALS)
    """Of every method, and of every budget where each is tuned."""
    budget: int | float | str
    """Reference budget, one that every method of the sweep can meet: what is best there is used at all budgets. Or
    `each`: every budget of the curve is tuned for itself."""
    space: dict[str, dict[str, list[Any]]]
    """Ranges as `{log | uniform | int: [low, high]}` or `{choice: [...]}`; a method ignores names that it lacks."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the quasi-random list and of the training runs that judge it."""

    @property
    def each(self) -> bool:
        """Whether every budget is tuned for itself."""
        return self.budget == EACH

    @field_validator("space")
    @classmethod
    def _parses(cls, space: dict[str, dict[str, list[Any]]]) -> dict[str, dict[str, list[Any]]]:
        parse_space(space)
        return space


class SearchStage(_Part):
    """`mode: search`: Optuna searches budgets and settings together, for a better metric with fewer parameters.

    Every method that is searched has a study of its own, with the same number of trials.
    """

    trials: int = Field(default=24, ge=1, le=MOST_TRIALS)
    """Trials of each method in all, failed ones included, however often the sweep is launched."""
    sampler: Literal["tpe", "nsga2"] = "tpe"
    """`tpe`: multivariate, for two objectives; `nsga2`: an evolutionary search, which wants many more trials."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the sampler, and of the training runs that judge its points."""
    population: int = Field(default=8, ge=2, le=MOST_TRIALS)
    """Trials of one generation of `nsga2`. Ours; Optuna's 50 would leave a short search at its random start."""
    concurrency: int | None = Field(default=None, ge=1)
    """Trials at one time; by default as many as there are worker groups. With 1 the search is a function of the seed;
    with more it also depends on the order in which trials end."""
    methods: list[str] | None = Field(default=None, min_length=1)
    """Labels to search; by default all that train for a budget of their own."""
    space: dict[str, dict[str, list[Any]]]
    """Ranges as in `tune.space`; `budget` is one of them, in any form that a budget may have."""
    rerun: int = Field(default=5, ge=0)
    """Configurations of a method's front, at most, that are trained again with every seed, to be tested."""

    @field_validator("space")
    @classmethod
    def _parses(cls, space: dict[str, dict[str, list[Any]]]) -> dict[str, dict[str, list[Any]]]:
        if BUDGET not in space:
            raise ValueError("budget is missing: the search trades it against the metric, as in {log: [10k, 160k]}")
        settings = {name: values for name, values in space.items() if name != BUDGET}
        if settings:  # budgets are parsed when the model is known
            parse_space(settings, "search.space")
        return space
