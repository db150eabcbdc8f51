"""A synthetic sweep of `mode: search` with a known study and known cells."""

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from adapad_ray.report.inputs import SearchedLabel
from tests.report.factory import SweepFactory

SPACE = {"budget": IntDistribution(10_000, 100_000, log=True), "growth_threshold": FloatDistribution(0.5, 2.0)}
SEARCHED = SearchedLabel("adapad", "toy/adapad/1", 12, "adapad/front", [0, 3])


def write_study(folder, trials=12):
    """Validation depends on the budget only; trial 5 failed, and a thirteenth is no longer requested."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'optuna.db'}")
    study = optuna.create_study(storage=storage, study_name=SEARCHED.study, directions=["maximize", "minimize"])
    for i in range(trials + 1):
        budget = 10_000 + 7_000 * i
        params = {"budget": budget, "growth_threshold": 0.5 + 1.5 * ((7 * i) % 12) / 12}
        failed = i == 5
        study.add_trial(
            optuna.create_trial(
                state=TrialState.FAIL if failed else TrialState.COMPLETE,
                values=None if failed else [0.7 + 0.002 * i, float(budget)],
                params=params,
                distributions=SPACE,
                user_attrs={"reason": "DivergedError: lane 1, step 3 <&>"} if failed else {},
            )
        )


def write_searched_sweep(folder):
    """Default points at three sizes, one below the whole front; the front beats the second and loses to the third."""
    factory = SweepFactory(folder, items=2000)
    for seed in range(3):
        factory.cell("adapad", 9_216, seed, 0.70)
        factory.cell("adapad", 41_472, seed, 0.72)
        factory.cell("adapad", 82_944, seed, 0.90)
        factory.cell("adapad/front", 20_000, seed, 0.80, 0.80)
        factory.cell("adapad/front", 40_000, seed, 0.78, 0.84)  # better on test, which has no influence
        factory.cell("adapad/front", 90_000, seed, 0.95)
    write_study(factory.folder)
