"""A cell becomes one run with its parameters, metrics, series and adapter."""

import pytest
from mlflow import MlflowClient

from adapad_ray.report.curves import Curves
from adapad_ray.results import WorkerCost
from adapad_ray.tracking.cell_run import VALUES_PER_SERIES
from adapad_ray.tracking.names import CELL, PARENT, REASON, SWEEP
from adapad_ray.tracking.tracker import Tracker
from adapad_ray.training.record import RoundStats
from adapad_ray.training.round_log import RoundLog
from tests.tracking.helpers import folder_of, runs, series


def test_a_cell_becomes_one_child_run(factory, uri):
    result = factory.cell("adapad", 165_888, 3, 0.8, prefixes={1: 0.7}, adapter=True)
    tracker = Tracker.open(uri, "demo", "demo")
    assert tracker.log_cell(result, folder_of(factory, result))
    tracker.close()
    by_tag = {run.data.tags.get(CELL): run for run in runs(uri)}
    child, parent = by_tag[result.id], by_tag[None]
    assert child.data.tags[PARENT] == parent.info.run_id and parent.data.tags[SWEEP] == "demo"
    assert child.info.status == parent.info.status == "FINISHED"
    assert child.data.params["training.learning_rate"] == "0.002" and child.data.params["seed"] == "3"
    assert child.data.params["config.growth_threshold"] == "1.0" and child.data.params["label"] == "adapad"
    metrics = child.data.metrics
    assert metrics["test/accuracy"] == result.final.test["accuracy"]
    assert metrics["parameters"] == 165_888 and metrics["peak_parameters"] == 165_898
    assert metrics["tokens_per_second"] == pytest.approx(50_000 / 23)
    assert metrics["rank/bert.encoder.layer.0.attention.self.query"] == 4
    assert child.data.tags["version.torch"] == "2.13.0"
    client = MlflowClient(tracking_uri=uri)
    losses = client.get_metric_history(child.info.run_id, "train_loss")
    assert [m.value for m in sorted(losses, key=lambda m: m.step)] == list(result.train_loss)
    assert {a.path for a in client.list_artifacts(child.info.run_id)} == {"result.json"}


def test_a_copy_of_the_adapter_is_logged_if_asked_for(factory, uri):
    result = factory.cell("adapad", 165_888, 3, 0.8, adapter=True)
    tracker = Tracker.open(uri, "demo", "demo")
    tracker.log_adapters = True
    tracker.log_cell(result, folder_of(factory, result))
    (child,) = [run for run in runs(uri) if CELL in run.data.tags]
    artifacts = MlflowClient(tracking_uri=uri).list_artifacts(child.info.run_id)
    assert {artifact.path for artifact in artifacts} == {"adapter", "result.json"}


def test_a_cell_without_a_budget_has_its_parameters_as_budget(factory, uri):
    result = factory.cell("head_only", None, 0, 0.7)
    tracker = Tracker.open(uri, "demo", "demo")
    tracker.log_cell(result, folder_of(factory, result))
    (child,) = [run for run in runs(uri) if CELL in run.data.tags]
    assert child.data.params["budget"] == "0" and "None" not in child.data.params.values()


def test_a_cell_has_its_run_and_losses_while_it_trains_and_no_loss_twice(factory, uri):
    result = factory.cell("lora", 41_472, 0, 0.8)
    tracker = Tracker.open(uri, "demo", "demo")
    tracker.log_progress(result.id, result.identity, {"step": 0, "steps": 100, "loss": None})
    (child,) = [run for run in runs(uri) if CELL in run.data.tags]
    assert child.info.status == "RUNNING" and child.data.params["training.learning_rate"] == "0.002"
    progress(tracker, result, 10)
    tracker.close("KILLED", "KeyboardInterrupt")
    (child,) = [run for run in runs(uri) if CELL in run.data.tags]
    assert child.info.status == "KILLED" and child.data.tags[REASON] == "KeyboardInterrupt"

    second = Tracker.open(uri, "demo", "demo")  # resumes at step 6, and reaches step 10 with another loss
    progress(second, result, 6)
    progress(second, result, 10, loss=9.0)
    (child,) = [run for run in runs(uri) if CELL in run.data.tags]
    assert child.info.status == "RUNNING" and REASON not in child.data.tags
    second.log_cell(result, folder_of(factory, result))
    second.close()
    (child,) = [run for run in runs(uri) if CELL in run.data.tags]
    assert child.info.status == "FINISHED" and child.info.end_time > child.info.start_time
    losses = series(uri, result)["train_loss"]
    assert losses == list(enumerate(result.train_loss))
    assert series(uri, result)["validation/accuracy"][:2] == [(5, 0.05), (10, 0.1)]


def test_a_cell_that_fails_has_a_failed_run_and_the_next_launch_goes_on_in_it(factory, uri):
    result = factory.cell("lora", 41_472, 0, 0.8)
    first = Tracker.open(uri, "demo", "demo")
    progress(first, result, 10)
    first.end_cell(result.id, "DivergedError: lane 1, step 3: the loss is nan")
    first.close("FAILED")
    (child,) = [run for run in runs(uri) if CELL in run.data.tags]
    assert child.info.status == "FAILED" and child.data.tags[REASON].startswith("DivergedError: lane 1")
    second = Tracker.open(uri, "demo", "demo")
    progress(second, result, 20)
    second.log_cell(result, folder_of(factory, result))
    (child,) = [run for run in runs(uri) if CELL in run.data.tags]
    assert child.info.status == "FINISHED" and REASON not in child.data.tags


def test_progress_takes_a_tenth_of_the_drivers_time_at_most(factory, uri, monkeypatch):
    result = factory.cell("lora", 41_472, 0, 0.8)
    tracker = Tracker.open(uri, "demo", "demo")
    clock = iter([100.0, 101.0, 101.0, 104.0, 110.5, 110.6, 110.6])
    monkeypatch.setattr("adapad_ray.tracking.tracker.monotonic", lambda: next(clock))
    monkeypatch.setattr(tracker.deliveries, "send_unless_down", lambda write: True)
    report = {"step": 1, "steps": 100, "loss": 0.5}
    logged = [tracker.log_progress(result.id, result.identity, report) for _ in range(3)]
    assert logged == [True, False, True], "one second's work at 100 s leaves nine free"


def progress(tracker, result, step, loss=None):
    """The cell has trained `step` steps."""
    tracker.loss_seconds = tracker._next_progress = 0.0
    loss = result.train_loss[step - 1] if loss is None else loss
    scored = [(at, {"accuracy": at / 100}) for at in range(5, step + 1, 5)]
    tracker.log_progress(result.id, result.identity, {"step": step, "loss": loss, "validations": scored})


def record_rounds(folder, rank, count, lanes):
    """Records rounds of two steps with distinct numbers; the first lane ends after the first round."""
    log = RoundLog(folder, rank)
    for n in range(1, count + 1):
        losses = {lane: 10 * n + lane for lane in (lanes if n == 1 else lanes[1:])}
        log(RoundStats(n, 2 * n, losses, {1: n / 8}, 100 * n, 1, 30, 1.5, 0.5 * rank, 0.5, 7, 5))
    log.close()
    return log.cost


def test_the_rounds_of_every_worker_become_series_and_their_sums_metrics(factory, uri):
    result = factory.cell("adapad", 41_472, 0, 0.8)
    costs = tuple(
        record_rounds(folder_of(factory, result), rank, 3, lanes) for rank, lanes in ((0, [2, 4]), (1, [-1, 3]))
    )
    result = result.model_copy(update={"cost": result.cost.model_copy(update={"workers": 2, "per_worker": costs})})
    first = Tracker.open(uri, "demo", "demo")
    first.runs.finish = lambda _: None  # killed between the last value and the end of the run
    first.log_cell(result, folder_of(factory, result))
    for _ in range(2):
        tracker = Tracker.open(uri, "demo", "demo")
        tracker.log_cell(result, folder_of(factory, result))
        tracker.close()
    logged = series(uri, result)
    assert logged["loss/lane-2"] == [(2, 12.0)]
    assert logged["loss/lane-reserve"] == [(2, 9.0)]
    assert logged["loss/lane-3"] == [(2, 13.0), (4, 23.0), (6, 33.0)]
    assert logged["deflation_error/lane-1"] == [(2, 0.125), (4, 0.25), (6, 0.375)]
    assert logged["round/parameters"] == [(2, 100.0), (4, 200.0), (6, 300.0)]
    assert logged["round/staleness"] == [(2, 1.0), (4, 1.0), (6, 1.0)]
    assert logged["round/wait_seconds/worker-1"] == [(2, 0.5), (4, 0.5), (6, 0.5)]
    assert logged["round/tokens_per_second"] == [(step, 30 / 2 + 30 / 2.5) for step in (2, 4, 6)]
    assert [value for _, value in logged["worker-1/wait_seconds"]] == [1.5]
    assert [value for _, value in logged["worker-0/bytes_fetched"]] == [15.0]
    assert costs[1] == WorkerCost(
        rank=1, compute_seconds=4.5, wait_seconds=1.5, exchange_seconds=1.5, bytes_published=21, bytes_fetched=15
    )


def test_a_long_cell_is_logged_as_means_over_rounds(factory, uri):
    result = factory.cell("adapad", 41_472, 0, 0.8)
    record_rounds(folder_of(factory, result), 0, 4 * VALUES_PER_SERIES, [1, 2])
    tracker = Tracker.open(uri, "demo", "demo")
    tracker.log_cell(result, folder_of(factory, result))
    tracker.close()
    points = series(uri, result)["round/parameters"]
    assert [step for step, _ in points] == [8 * n for n in range(1, VALUES_PER_SERIES + 1)]
    assert [value for _, value in points[:2]] == [250.0, 650.0], "the means of four rounds"


def test_the_errors_of_components_become_series(factory, uri):
    result = factory.cell("adapad", 41_472, 0, 0.8)
    rows = "round,step,component,error\n1,5,1,0.5\n1,5,2,1.0\n2,10,1,0.25\n2,10,2,0.75\n"
    (folder_of(factory, result) / "component_errors.csv").write_text(rows)
    tracker = Tracker.open(uri, "demo", "demo")
    tracker.log_cell(result, folder_of(factory, result))
    found = series(uri, result)
    assert found["component_error/1"] == [(5, 0.5), (10, 0.25)]
    assert found["component_error/2"] == [(5, 1.0), (10, 0.75)]


def test_hostile_names_and_long_values_can_be_logged(factory, uri):
    result = factory.cell("<b>../x</b>", 41_472, 0, 0.8)
    long = result.identity.model_copy(update={"config": {"nested": {"list": list(range(5000))}, "a b?": "é"}})
    result = result.model_copy(update={"identity": long, "train_loss": tuple(range(2500))})
    tracker = Tracker.open(uri, "demo", "demo")
    assert tracker.log_cell(result, factory.folder)
    table = Curves([result], factory.folder, draws=20).table()
    assert tracker.log_report(table, [], "d")
