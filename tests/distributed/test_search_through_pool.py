"""The tune stage on a real cluster, with a parabola in place of a model."""

import optuna
import pytest

from adapad_ray.distributed import JobOutcome, WorkerPool
from adapad_ray.search.halving import Halving, RankedTrial, Rung
from adapad_ray.search.searchers import TuneCell, TuneStudy
from adapad_ray.search.space import quasi_random_points
from adapad_ray.search.tuner import run_tune_trials

pytestmark = pytest.mark.xdist_group("clusters")

SPACE = {"x": {"uniform": [0.0, 1.0]}}
POINTS = quasi_random_points(SPACE, 4, seed=0)
HALF_WAY = 8
"""Step at which the trials of `dora` pause; the best of them goes on."""


def study(label: str, rungs: tuple[Rung, ...] = (), pauses: tuple[int, ...] = (), **extra: dict) -> TuneStudy:
    cells = [
        TuneCell(f"{label}-{i}", point, {"x": point["x"], "sleep": 0.1, **extra.get(f"{label}{i}", {})}, pauses)
        for i, point in enumerate(POINTS)
    ]
    halving = Halving([RankedTrial(cell.cell_id) for cell in cells], rungs)
    return TuneStudy(SPACE, {cell.cell_id: cell for cell in cells}, halving)


@pytest.fixture(scope="module")
def stage(pool: WorkerPool, tmp_path_factory):
    """One run of the stage: a cell fails, another has a score that is not a number, and a study stops trials."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path_factory.mktemp('optuna') / 'studies.db'}")
    heard: list = []
    studies = {
        "lora": study("lora", lora1={"raise": 0}),
        "adapad": study("adapad", adapad2={"x": float("nan")}),
        "dora": study("dora", (Rung(0.5, 0.25),), (HALF_WAY,)),
    }
    outcomes = run_tune_trials(pool, studies, name="toy", on_event=heard.append, storage=storage)
    return outcomes, heard, storage


def test_every_cell_has_its_outcome_and_a_failure_stays_alone(stage):
    outcomes, _, _ = stage
    assert set(outcomes) == {f"{label}-{i}" for label in ("lora", "adapad", "dora") for i in range(len(POINTS))}
    assert [cell_id for cell_id, outcome in outcomes.items() if outcome.status != "done"] == ["lora-1"]
    assert outcomes["adapad-3"].value["score"] == POINTS[3]["x"]
    assert {outcome.group for outcome in outcomes.values()} == {0, 1}


def test_the_driver_hears_of_every_outcome_once(stage):
    outcomes, heard, _ = stage
    best = f"dora-{POINTS.index(max(POINTS, key=lambda point: point['x']))}"
    ended = sorted(event.job_id for event in heard if isinstance(event, JobOutcome))
    assert ended == sorted([*outcomes, best]), "once at its pause, and once at its end"


def test_every_label_has_a_study_with_exactly_its_points(stage):
    _, _, storage = stage
    for label in ("lora", "adapad"):
        study = optuna.load_study(study_name=f"toy/{label}", storage=storage)
        assert [trial.params for trial in study.trials] == POINTS
    best = optuna.load_study(study_name="toy/adapad", storage=storage).best_trial
    assert best.value == max(point["x"] for i, point in enumerate(POINTS) if i != 2)


def test_what_fails_is_failed_in_its_study_and_not_pruned(stage):
    _, _, storage = stage
    states = {
        (label, trial.number): trial.state.name
        for label in ("lora", "adapad")
        for trial in optuna.load_study(study_name=f"toy/{label}", storage=storage).trials
    }
    assert {key for key, state in states.items() if state == "FAIL"} == {("lora", 1), ("adapad", 2)}
    assert set(states.values()) == {"COMPLETE", "FAIL"}


def test_trials_that_are_stopped_early_are_pruned_with_the_score_of_their_rung(stage):
    outcomes, _, storage = stage
    trials = optuna.load_study(study_name="toy/dora", storage=storage).trials
    best = max(point["x"] for point in POINTS)
    assert [(t.params["x"], t.state.name, t.intermediate_values) for t in trials] == [
        (point["x"], "COMPLETE" if point["x"] == best else "PRUNED", {HALF_WAY: point["x"]}) for point in POINTS
    ]
    assert [id for id, outcome in outcomes.items() if id.startswith("dora") and "paused" not in outcome.value] == [
        f"dora-{[point['x'] for point in POINTS].index(best)}"
    ]


def test_a_stage_without_cells_runs_nothing(pool):
    assert run_tune_trials(pool, {}, name="toy") == {}
