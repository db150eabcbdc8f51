"""A launch from its first to its last event, on an executor without Ray: stages, observers, kills and relaunches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import optuna
import pytest
from synthetic import ONE_EACH, SyntheticExecutor, Tracker

from adapad_ray.distributed import JobError
from adapad_ray.errors import BadRequestError, StorageError
from adapad_ray.sweep.manifest import Manifest
from adapad_ray.sweep.observers import (
    LockCheck,
    Observers,
    OutOfTimeError,
    StoreSync,
    SweepObserver,
    TimeLimit,
    TrackerLog,
)

TUNE = {"trials": 3, "budget": ONE_EACH, "space": {"learning_rate": {"log": [1e-3, 1e-1]}}}
SEARCH = {"trials": 6, "rerun": 2, "space": {"budget": {"choice": [8, ONE_EACH, 2 * ONE_EACH]}}}
DIVERGED = JobError("DivergedError", "lane 1, step 3: the loss is nan")


def kinds(executor) -> list[tuple[str, str]]:
    return list(dict.fromkeys((identity.stage, identity.label) for identity in executor.computed))


def test_hooks_are_called_in_the_order_of_a_launch(launch):
    executor = SyntheticExecutor(score=lambda identity: identity.training["learning_rate"])
    outcome, recorder = launch(executor, tune=TUNE)
    steps = [hook for hook, previous in zip(recorder.hooks, [None, *recorder.hooks], strict=False) if hook != previous]
    cells = ["cell_progress", "cell_finished"]
    tuned, curve = 2 * TUNE["trials"], 2 * (1 + 2)
    of_one_label = cells * TUNE["trials"]  # its curve is planned as soon as it is tuned
    assert steps == [
        "data_read",
        "computing_started",
        "wave_planned", *of_one_label, "wave_planned", *of_one_label, "wave_planned",
        "winners_found", *cells * curve,
        "wave_planned",
        "computing_ended",
        "report_started",
        "sweep_ended",
    ]  # fmt: skip
    ((state, expected, groups, _),) = recorder.arguments("computing_started")
    assert (expected, groups) == (tuned + curve, 2)
    assert len(state.results) == outcome.computed == expected
    ((winners, edges),) = recorder.arguments("winners_found")
    best = max(i.training["learning_rate"] for i in executor.computed if i.stage == "tune" and i.label == "lora")
    assert winners["lora", None] == {"learning_rate": best}
    assert f"lora: the best learning_rate, {best:g}, is the largest of those tried; higher ones may be better" in edges
    assert {i.training["learning_rate"] for i in executor.computed if i.stage == "curve"} == {best}
    assert outcome.links == {"MLflow": "http://mlflow"}


def test_tensorboard_has_a_run_of_every_cell_if_it_is_asked_for(launch, folder):
    pytest.importorskip("tensorboard")
    outcome, _ = launch(SyntheticExecutor(), tensorboard=True)
    place = folder / "tensorboard"
    assert outcome.links == {"MLflow": "http://mlflow", "TensorBoard": f"tensorboard --logdir {place}"}
    runs = {path.parent.name.split()[-1]: path.stat().st_mtime_ns for path in place.glob("*/*")}
    assert runs.keys() == {path.name for path in (folder / "cells").iterdir()}
    launch(SyntheticExecutor(), tensorboard=True)
    assert sorted(path.stat().st_mtime_ns for path in place.glob("*/*")) == sorted(runs.values())


def test_the_curve_of_a_label_starts_when_the_label_is_tuned(launch):
    """But not that of a label which follows the compute of another, or is cut from a parent."""
    started_before = []

    def record(identity):
        if identity.stage == "tune":
            started_before.append(
                {(job["identity"]["stage"], job["identity"]["label"]) for job in executor.started.values()}
            )

    executor = SyntheticExecutor(error=record)
    methods = {"lora": {}, "para": {"parent_rank": 4}, "lora/matched": {"compute_as": "adapad"}, "adapad": {}}
    outcome, _ = launch(executor, methods=methods, tune=TUNE)
    assert started_before[0] == set()
    assert set().union(*started_before) == {("curve", "lora"), ("curve", "head_only"), ("curve", "adapad")}
    assert len(executor.computed) == len({i.model_dump_json() for i in executor.computed}), "none is computed twice"
    assert outcome.failed == []


def test_a_cell_that_failed_early_is_not_computed_again(launch):
    executor = SyntheticExecutor(error=lambda i: DIVERGED if i.stage == "curve" and i.label == "lora" else None)
    executor.start_jobs = executor.run_jobs
    outcome, recorder = launch(executor, tune=TUNE, reference=False)
    failures = [cell.id for cell, _, _ in recorder.arguments("cell_failed")]
    assert len(failures) == len(set(failures)) == len(outcome.failed) == 2 * 2


def test_cells_that_train_longest_come_first(launch):
    executor = SyntheticExecutor()
    adapad = {"initial_rank": 0, "r_max": 3}
    launch(executor, methods={"lora": {}, "adapad": adapad, "lora/long": {"training": {"epochs": 9}}}, seeds=[0])
    trained = [(i.label, i.budget) for i in executor.computed]
    long, short = [("lora/long", ONE_EACH), ("lora/long", 2 * ONE_EACH)], [("lora", ONE_EACH), ("lora", 2 * ONE_EACH)]
    assert [cell for cell in trained if cell[0] != "head_only"] == [
        ("adapad", ONE_EACH),
        ("adapad", 2 * ONE_EACH),
        *long,
        *short,
    ]


def test_the_next_launch_computes_nothing_and_logs_every_cell(launch, tracker):
    first = SyntheticExecutor()
    launch(first, tune=TUNE)
    second = SyntheticExecutor()
    outcome, recorder = launch(second, tune=TUNE)
    assert recorder.hooks == ["nothing_to_compute", "report_started", "sweep_ended"]
    assert recorder.arguments("nothing_to_compute") == [(len(first.computed),)]
    assert (second.computed, outcome.computed, outcome.reused) == ([], 0, len(first.computed))
    assert len(tracker.cells) == len(first.computed)
    assert tracker.ends == [("FINISHED",), ("FINISHED",)]


@pytest.mark.parametrize("kill", [KeyboardInterrupt, StorageError, RuntimeError])
def test_a_launch_that_ends_early_closes_everything_and_the_next_computes_the_difference(launch, tracker, kill):
    def dies_at_the_fifth_cell(identity):
        if len(first.computed) == 4:
            raise kill

    first = SyntheticExecutor(error=dies_at_the_fifth_cell)
    with pytest.raises(kill) as caught:
        launch(first, tune=TUNE)
    assert caught.value.recorder.hooks[-2:] == ["computing_ended", "sweep_interrupted"]
    assert tracker.ends == [("KILLED", kill.__name__)]
    second = SyntheticExecutor()
    outcome, recorder = launch(second, tune=TUNE)
    assert outcome.reused == 4 == sum(len(results) for (results,) in recorder.arguments("cells_reused"))
    both = [*first.computed, *second.computed]
    assert len({identity.model_dump_json() for identity in both}) == len(both) == 2 * 3 + 2 * 3


def test_a_launch_ends_when_its_time_is_over_and_the_next_continues(launch, tracker):
    minutes = 0

    def a_cell_takes_a_minute(identity):
        nonlocal minutes
        minutes += 1

    first = SyntheticExecutor(error=a_cell_takes_a_minute)
    limit = TimeLimit(2.5, now=lambda: 60.0 * minutes)
    with pytest.raises(OutOfTimeError, match=r"^max_minutes.sweep \(2.5\) is over after 3 cells$") as caught:
        launch(first, [limit], tune=TUNE)
    assert caught.value.recorder.hooks[-2:] == ["computing_ended", "sweep_interrupted"]
    outcome, _ = launch(SyntheticExecutor(), tune=TUNE, max_minutes={"sweep": 60})
    assert (outcome.reused, outcome.failed) == (3, [])


def test_the_file_says_how_long_a_launch_may_compute(launch):
    with pytest.raises(OutOfTimeError):
        launch(SyntheticExecutor(), max_minutes={"sweep": 1e-9})


def test_leaders_are_computed_before_the_labels_that_follow_their_compute(launch):
    executor = SyntheticExecutor(passes=lambda identity: 3 if identity.method == "adapad" else 1)
    methods = {"lora/matched": {"compute_as": "adapad"}, "adapad": {"initial_rank": 0}}
    launch(executor, methods=methods, tune=TUNE)
    assert [label for stage, label in kinds(executor) if stage == "tune"] == ["adapad", "head_only", "lora/matched"]
    assert [label for stage, label in kinds(executor) if stage == "curve"] == ["adapad", "head_only", "lora/matched"]
    epochs = {identity.label: identity.training["epochs"] for identity in executor.computed}
    assert epochs["lora/matched"] == 3 * epochs["adapad"]


def test_a_failed_leader_leaves_its_followers_out(launch):
    executor = SyntheticExecutor(error=lambda identity: DIVERGED if identity.method == "adapad" else None)
    methods = {"lora/matched": {"compute_as": "adapad"}, "adapad": {"initial_rank": 0}}
    outcome, _ = launch(executor, methods=methods, reference=False)
    assert executor.computed == []
    assert {failed.label for failed in outcome.failed} == {"adapad"}


def test_a_failed_parent_leaves_its_children_out_and_says_so(launch, folder, tracker):
    executor = SyntheticExecutor(error=lambda identity: DIVERGED if identity.stage == "parent" else None)
    outcome, recorder = launch(executor, methods={"lora": {}, "para": {"parent_rank": 4}}, seeds=[0])
    assert kinds(executor) == [("curve", "head_only"), ("curve", "lora")]
    (failed,) = outcome.failed
    assert failed.label == "para" and failed.reason.startswith("DivergedError: lane 1, step 3")
    assert "the cells that would be cut from it are missing" in failed.reason
    assert Manifest.load(folder).failed == [failed]
    assert [additional for _, additional in recorder.arguments("wave_planned")].count(1) == 1, "the parent"
    assert tracker.ends == [("FAILED",)]
    assert len(tracker.failed) == 1 and set(tracker.cells) == tracker.started - set(tracker.failed)


def test_parents_come_before_their_children_and_are_computed_once(launch):
    executor = SyntheticExecutor()
    launch(executor, methods={"para": {"parent_rank": 4}, "para/uniform": {"parent_rank": 4, "cut": "uniform"}})
    stages = [identity.stage for identity in executor.computed if identity.label != "head_only"]
    assert stages == ["parent"] * 2 + ["curve"] * 2 * 2 * 2


def test_a_search_runs_its_trials_and_then_retrains_its_front(launch, folder):
    executor = SyntheticExecutor(score=lambda identity: (identity.budget or 0) / 10_000)
    outcome, recorder = launch(executor, mode="search", search=SEARCH, reference=False)
    storage = f"sqlite:///{folder / 'optuna.db'}"
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    assert len(trials) == SEARCH["trials"]
    impossible = [trial for trial in trials if trial.params["budget"] == 8]
    assert len(recorder.arguments("trial_failed")) == len(impossible)
    searched = [identity for identity in executor.computed if identity.stage == "search"]
    assert len(searched) == len({trial.params["budget"] for trial in trials} - {8}), "a repeated point is one cell"
    assert outcome.failed == []
    labels = Counter(identity.label for identity in executor.computed if identity.stage == "curve")
    assert labels["lora"] == 4
    assert labels["lora/front"] == 0, "the front has the settings of the file here"
    assert Manifest.load(folder).searched[0].front_label == "lora/front"
    again = SyntheticExecutor()
    _, recorder = launch(again, mode="search", search=SEARCH, reference=False)
    assert again.computed == [] and recorder.hooks[0] == "nothing_to_compute"


def test_the_front_of_a_search_is_retrained_with_every_seed(launch):
    executor = SyntheticExecutor(score=lambda identity: (identity.budget or 0) / 10_000)
    space = {"budget": {"choice": [ONE_EACH, 2 * ONE_EACH]}, "learning_rate": {"log": [1e-3, 1e-1]}}
    _, recorder = launch(executor, mode="search", search={**SEARCH, "space": space}, reference=False)
    front = [identity for identity in executor.computed if identity.label == "lora/front"]
    assert Counter(identity.seed for identity in front) == {0: 2, 1: 2}
    assert recorder.arguments("wave_planned")[-1][1] == len(front), "the plan does not count them"


def test_a_trial_whose_cell_was_removed_is_computed_again(launch, folder):
    fields = {"mode": "search", "search": {**SEARCH, "space": {"budget": {"choice": [ONE_EACH]}}}}
    launch(SyntheticExecutor(), **fields)
    searched = [
        path for path in folder.glob("cells/*/result.json") if '"stage":"search"' in path.read_text().replace(" ", "")
    ]
    assert len(searched) == 1
    searched[0].unlink()
    executor = SyntheticExecutor()
    launch(executor, **fields)
    assert [identity.stage for identity in executor.computed] == ["search"]


def test_an_observer_that_raises_ends_the_launch_and_the_others_hear_of_it(launch):
    class Broken(SweepObserver):
        def cell_finished(self, cell, result, attempts):
            raise RuntimeError("no room on the screen")

    with pytest.raises(RuntimeError, match="no room on the screen") as caught:
        launch(SyntheticExecutor(), observers=[Broken()])
    assert "cell_finished" not in caught.value.recorder.hooks
    assert caught.value.recorder.hooks[-1] == "sweep_interrupted"


# The observers of every launch ---------------------------------------------------------------------------------------


class Lock:
    """Another launch may take it over."""

    lost = False

    def check(self) -> None:
        if self.lost:
            raise BadRequestError("taken over by process 4")


class Folder:
    """Counts uploads."""

    saved = 0
    path = Path("/nowhere")

    def save(self) -> None:
        self.saved += 1


def test_a_launch_that_lost_its_lock_ends_before_anything_is_logged_or_uploaded():
    lock, folder, tracker = Lock(), Folder(), Tracker()
    observers = Observers([LockCheck(lock), TrackerLog(tracker, folder), StoreSync(folder, lock)])
    lock.lost = True
    for hook, arguments in [
        (SweepObserver.cell_progress, (None, None)),
        (SweepObserver.cell_finished, (None, None, 1)),
        (SweepObserver.cell_failed, (None, "", 1)),
        (SweepObserver.sweep_ended, (None, None)),
    ]:
        with pytest.raises(BadRequestError, match="taken over by process 4"):
            observers.notify(hook, *arguments)
    observers.notify(SweepObserver.sweep_interrupted, BadRequestError("taken over"))
    assert (folder.saved, tracker.cells, tracker.ends) == (0, {}, [("KILLED", "BadRequestError")])


def test_an_interrupted_launch_uploads_its_studies():
    folder = Folder()
    StoreSync(folder, Lock()).sweep_interrupted(KeyboardInterrupt())
    assert folder.saved == 1


def test_an_outage_of_the_store_does_not_stop_a_trial_that_begins():
    class Away(Folder):
        def save(self) -> None:
            raise StorageError("away")

    observer = StoreSync(Away(), Lock())
    observer.wave_planned([], 0)
    with pytest.raises(StorageError):
        observer.cell_failed(None, "", 1)
