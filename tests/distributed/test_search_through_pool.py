"""The tune stage on a real cluster, with a parabola in place of a model."""

import optuna
import pytest

from adapad_ray.distributed import JobOutcome, WorkerPool
from adapad_ray.search.searchers import TuneCell
from adapad_ray.search.space import quasi_random_points
from adapad_ray.search.tuner import run_tune_trials

pytestmark = pytest.mark.xdist_group("clusters")

SPACE = {"x": {"uniform": [0.0, 1.0]}}
POINTS = quasi_random_points(SPACE, 4, seed=0)


def cells(**extra: dict) -> list[TuneCell]:
    return [
        TuneCell(f"{label}-{i}", label, point, {"x": point["x"], "sleep": 0.1, **extra.get(f"{label}{i}", {})})
        for label in ("lora", "adapad")
        for i, point in enumerate(POINTS)
    ]


@pytest.fixture(scope="module")
def stage(pool: WorkerPool, tmp_path_factory):
    """One run of the stage in which a cell fails and another has a score that is not a number."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path_factory.mktemp('optuna') / 'studies.db'}")
    heard: list = []
    outcomes = run_tune_trials(
        pool,
        cells(lora1={"raise": 0}, adapad2={"x": float("nan")}),
        {"lora": SPACE, "adapad": SPACE},
        name="toy",
        seed=0,
        on_event=heard.append,
        storage=storage,
    )
    return outcomes, heard, storage


def test_every_cell_has_its_outcome_and_a_failure_stays_alone(stage):
    outcomes, _, _ = stage
    assert {cell.cell_id for cell in cells()} == set(outcomes)
    assert [cell_id for cell_id, outcome in outcomes.items() if outcome.status != "done"] == ["lora-1"]
    assert outcomes["adapad-3"].value["score"] == POINTS[3]["x"]
    assert {outcome.group for outcome in outcomes.values()} == {0, 1}


def test_the_driver_hears_of_every_outcome_once(stage):
    outcomes, heard, _ = stage
    assert sorted(event.job_id for event in heard if isinstance(event, JobOutcome)) == sorted(outcomes)


def test_every_label_has_a_study_with_exactly_its_points(stage):
    _, _, storage = stage
    for label in ("lora", "adapad"):
        study = optuna.load_study(study_name=f"toy/{label}", storage=storage)
        assert [trial.params for trial in study.trials] == POINTS
    best = optuna.load_study(study_name="toy/adapad", storage=storage).best_trial
    assert best.value == max(point["x"] for i, point in enumerate(POINTS) if i != 2)


def test_what_fails_is_failed_in_its_study_and_never_pruned(stage):
    _, _, storage = stage
    states = {
        (label, trial.number): trial.state.name
        for label in ("lora", "adapad")
        for trial in optuna.load_study(study_name=f"toy/{label}", storage=storage).trials
    }
    assert {key for key, state in states.items() if state == "FAIL"} == {("lora", 1), ("adapad", 2)}
    assert set(states.values()) == {"COMPLETE", "FAIL"}


def test_a_stage_without_cells_runs_nothing(pool):
    assert run_tune_trials(pool, [], {}, name="toy", seed=0) == {}
