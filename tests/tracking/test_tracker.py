"""Nothing is logged twice, and nothing is left running after a killed driver."""

from mlflow import MlflowClient

from adapad_ray.tracking.names import CELL, REASON
from adapad_ray.tracking.runs import KILLED
from adapad_ray.tracking.tracker import Tracker
from tests.tracking.helpers import folder_of, runs


def test_logging_again_and_opening_again_change_nothing(factory, uri):
    result = factory.cell("lora", 41_472, 0, 0.8)
    for _ in range(2):
        tracker = Tracker.open(uri, "demo", "demo")
        for _ in range(2):
            tracker.log_cell(result, folder_of(factory, result))
        tracker.close()
    found = runs(uri)
    assert len(found) == 2
    child = next(run for run in found if CELL in run.data.tags)
    assert len(MlflowClient(tracking_uri=uri).get_metric_history(child.info.run_id, "train_loss")) == 100


def test_a_killed_driver_leaves_nothing_running_after_the_next_start(factory, uri):
    result, other = (factory.cell("lora", 41_472, seed, 0.8) for seed in range(2))
    first = Tracker.open(uri, "demo", "demo")
    first.runs.finish = lambda _: None  # killed between the last value and the end of the run
    for cell in (result, other):
        first.log_cell(cell, folder_of(factory, cell))
    assert [run.info.status for run in runs(uri)] == ["RUNNING"] * 3

    second = Tracker.open(uri, "demo", "demo")
    children = [run for run in runs(uri) if CELL in run.data.tags]
    assert {(run.info.status, run.data.tags[REASON]) for run in children} == {("KILLED", KILLED)}
    second.log_cell(result, folder_of(factory, result))
    second.close("FAILED", reason="one cell failed")
    by_cell = {run.data.tags.get(CELL): run for run in runs(uri)}
    assert len(runs(uri)) == 3
    assert by_cell[result.id].info.status == "FINISHED"
    assert by_cell[other.id].info.status == "KILLED"
    assert by_cell[None].info.status == "FAILED" and by_cell[None].data.tags[REASON] == "one cell failed"
    history = MlflowClient(tracking_uri=uri).get_metric_history(by_cell[result.id].info.run_id, "train_loss")
    assert len(history) == 100

    third = Tracker.open(uri, "demo", "demo")
    assert third.log_cell(result, folder_of(factory, result))
    third.close()
    parent = next(run for run in runs(uri) if CELL not in run.data.tags)
    assert parent.info.status == "FINISHED" and REASON not in parent.data.tags


def test_two_sweeps_of_one_experiment_have_runs_of_their_own(factory, uri):
    result = factory.cell("lora", 41_472, 0, 0.8)
    for sweep in ("one", "two"):
        tracker = Tracker.open(uri, "demo", sweep)
        tracker.log_cell(result, folder_of(factory, result))
        tracker.close()
    assert len(runs(uri)) == 4


def test_artifacts_go_beside_the_database_and_nothing_is_printed(factory, tmp_path, capfd):
    result = factory.cell("lora", 41_472, 0, 0.8, adapter=True)
    uri = f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"
    tracker = Tracker.open(uri, "demo", "demo")
    tracker.log_adapters = True
    tracker.log_cell(result, folder_of(factory, result))
    tracker.close()
    assert list((tmp_path / "store" / "mlartifacts").rglob("adapter_config.json"))
    assert capfd.readouterr() == ("", "")
