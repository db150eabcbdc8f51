"""Tracking against a real SQLite store: nothing twice, nothing left running, and a store that is away does no harm."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from urllib.parse import quote

import pytest
from mlflow import MlflowClient

from adapad_ray.errors import BadRequestError
from adapad_ray.report.curves import curve_table
from adapad_ray.results import WorkerCost
from adapad_ray.tracking import CELL, KILLED, PARENT, POINTS_PER_SERIES, REASON, REPORT, SWEEP, Tracker, tracking_uri
from adapad_ray.training.record import RoundStats
from adapad_ray.training.round_log import RoundLog
from tests.ports import free_port
from tests.report.factory import SweepFactory


@pytest.fixture(autouse=True)
def no_address_from_outside(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def factory(tmp_path):
    return SweepFactory(tmp_path / "runs" / "demo", items=50)


@pytest.fixture(scope="module")
def fresh_store(tmp_path_factory):
    """Creating a store costs seconds (its migrations), so it is made once and copied."""
    folder = tmp_path_factory.mktemp("store")
    Tracker.open(f"sqlite:///{folder / 'mlflow.db'}", "template", "template").close()
    return folder / "mlflow.db"


@pytest.fixture
def uri(tmp_path, fresh_store):
    (tmp_path / "mlflow.db").write_bytes(fresh_store.read_bytes())
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


def runs(uri, experiment="demo"):
    client = MlflowClient(tracking_uri=uri)
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def folder_of(factory, result):
    return factory.folder / "cells" / result.id


def test_a_cell_becomes_one_child_run_with_all_it_measured(factory, uri):
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
    assert {a.path for a in client.list_artifacts(child.info.run_id)} == {"adapter", "result.json"}


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
    first._finish = lambda *_: None  # killed between the last value and the end of the run
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


def keep_rounds(folder, rank, count, lanes):
    """Rounds of two steps in which every figure says where it comes from; the first lane ends after the first round."""
    log = RoundLog(folder, rank)
    for n in range(1, count + 1):
        losses = {lane: 10 * n + lane for lane in (lanes if n == 1 else lanes[1:])}
        log(RoundStats(n, 2 * n, losses, {1: n / 8}, 100 * n, 1, 30, 1.5, 0.5 * rank, 0.5, 7, 5))
    log.close()
    return log.cost


def series(uri, result):
    """Metric name → [(step, value)] of the cell's run."""
    client = MlflowClient(tracking_uri=uri)
    (run,) = [run for run in runs(uri) if run.data.tags.get(CELL) == result.id]
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: sorted((m.step, m.value) for m in values) for name, values in history.items()}


def test_the_rounds_of_every_worker_become_series_and_their_sums_metrics(factory, uri):
    result = factory.cell("adapad", 41_472, 0, 0.8)
    costs = tuple(
        keep_rounds(folder_of(factory, result), rank, 3, lanes) for rank, lanes in ((0, [2, 4]), (1, [-1, 3]))
    )
    result = result.model_copy(update={"cost": result.cost.model_copy(update={"workers": 2, "per_worker": costs})})
    first = Tracker.open(uri, "demo", "demo")
    first._finish = lambda *_: None  # killed between the last value and the end of the run
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


def test_a_long_cell_is_logged_in_as_many_points_as_a_chart_can_show(factory, uri):
    result = factory.cell("adapad", 41_472, 0, 0.8)
    keep_rounds(folder_of(factory, result), 0, 4 * POINTS_PER_SERIES, [1, 2])
    tracker = Tracker.open(uri, "demo", "demo")
    tracker.log_cell(result, folder_of(factory, result))
    tracker.close()
    points = series(uri, result)["round/parameters"]
    assert [step for step, _ in points] == [8 * n for n in range(1, POINTS_PER_SERIES + 1)]
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


def test_the_curve_is_a_metric_whose_step_is_the_parameter_count(factory, uri):
    results = factory.sweep(seeds=2)
    table = curve_table(results, factory.folder, draws=20)
    table.to_csv(factory.folder / "curve.csv")
    tracker = Tracker.open(uri, "demo", "demo")
    for _ in range(2):
        tracker.log_report(table, [factory.folder / "curve.csv"], "digest-a")
    tracker.log_report(table, [], "digest-b")
    tracker.close()
    reports = {run.data.tags[REPORT]: run for run in runs(uri) if REPORT in run.data.tags}
    assert {digest: run.data.tags.get("superseded", "false") for digest, run in reports.items()} == {
        "digest-a": "true",
        "digest-b": "false",
    }
    client = MlflowClient(tracking_uri=uri)
    run_id = reports["digest-a"].info.run_id
    curve = {m.step: m.value for m in client.get_metric_history(run_id, "curve/lora/qv")}
    rows = table[(table["label"] == "lora/qv")]
    assert curve == dict(zip(rows["parameters"].astype(int), rows["test_mean"], strict=True))
    assert len(client.get_metric_history(run_id, "curve/lora/qv")) == 4
    assert len(client.get_metric_history(run_id, "curve/adapad/prefixes")) == 3
    assert [a.path for a in client.list_artifacts(run_id)] == ["curve.csv"]
    again = Tracker.open(uri, "demo", "demo")
    again.log_report(table, [], "digest-a")
    reports = {run.data.tags[REPORT]: run.data.tags["superseded"] for run in runs(uri) if REPORT in run.data.tags}
    assert reports == {"digest-a": "false", "digest-b": "true"}


def test_hostile_names_and_long_values_are_logged_all_the_same(factory, uri):
    result = factory.cell("<b>../x</b>", 41_472, 0, 0.8)
    long = result.identity.model_copy(update={"config": {"nested": {"list": list(range(5000))}, "a b?": "é"}})
    result = result.model_copy(update={"identity": long, "train_loss": tuple(range(2500))})
    tracker = Tracker.open(uri, "demo", "demo")
    assert tracker.log_cell(result, factory.folder)
    table = curve_table([result], factory.folder, draws=20)
    assert tracker.log_report(table, [], "d")


def test_two_sweeps_of_one_experiment_keep_apart(factory, uri):
    result = factory.cell("lora", 41_472, 0, 0.8)
    for sweep in ("one", "two"):
        tracker = Tracker.open(uri, "demo", sweep)
        tracker.log_cell(result, folder_of(factory, result))
        tracker.close()
    assert len(runs(uri)) == 4


def test_the_environment_wins(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert tracking_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert tracking_uri("sqlite:///mlflow.db") == "http://localhost:5000"


def test_a_server_that_is_away_is_a_bad_request_within_seconds():
    port = free_port()
    start = time.monotonic()
    with pytest.raises(BadRequestError, match=f"http://127.0.0.1:{port} cannot be used") as caught:
        Tracker.open(f"http://user:secret@127.0.0.1:{port}", "demo", "demo")
    assert time.monotonic() - start < 30
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_store_that_is_no_store_is_a_bad_request(tmp_path):
    (tmp_path / "file").write_text("")
    for uri in (f"sqlite:///{tmp_path}/file/mlflow.db", "nonsense://x", str(tmp_path / "mlruns")):
        with pytest.raises(BadRequestError):
            Tracker.open(uri, "demo", "demo")


def test_a_launch_that_is_killed_while_its_store_is_created_leaves_none(tmp_path):
    path = tmp_path / "mlflow.db"
    command = f"from adapad_ray.tracking import Tracker; Tracker.open('sqlite:///{path}', 'demo', 'demo')"
    process = subprocess.Popen([sys.executable, "-c", command], cwd=tmp_path)
    while not any(file.stat().st_size for file in tmp_path.glob("*.db")):  # the first of some fifty migrations
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not path.exists()
    Tracker.open(f"sqlite:///{path}", "demo", "demo").close()
    assert len(runs(f"sqlite:///{path}")) == 1


def test_a_store_that_goes_away_costs_one_warning_and_no_sweep(factory, uri, caplog, monkeypatch):
    result = factory.cell("lora", 41_472, 0, 0.8)
    tracker = Tracker.open(uri, "demo", "demo")

    def away(*_args, **_kwargs):
        from mlflow.exceptions import MlflowException

        raise MlflowException("no route to host")

    monkeypatch.setattr(tracker._client, "log_batch", away)
    with caplog.at_level(logging.WARNING):
        assert not tracker.log_cell(result, folder_of(factory, result))
        assert not tracker.log_cell(result, folder_of(factory, result))
        tracker.close()
    assert len(caplog.records) == 2 and "launch the sweep again" in caplog.text
    later = Tracker.open(uri, "demo", "demo")
    assert later.log_cell(result, folder_of(factory, result))
    later.close()
    assert {run.info.status for run in runs(uri)} == {"FINISHED"}


def test_an_interrupt_waits_until_what_is_being_written_is_written(factory, uri, monkeypatch):
    result = factory.cell("lora", 41_472, 0, 0.8)
    tracker = Tracker.open(uri, "demo", "demo")
    write = tracker._client.log_batch

    def interrupted_write(*arguments):
        signal.raise_signal(signal.SIGINT)
        write(*arguments)

    monkeypatch.setattr(tracker._client, "log_batch", interrupted_write)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            tracker.log_cell(result, folder_of(factory, result))
    finally:
        signal.signal(signal.SIGINT, before)
    tracker.close("KILLED")
    (cell,) = [run for run in runs(uri) if CELL in run.data.tags]
    assert cell.info.status == "FINISHED" and cell.data.metrics["parameters"]


class Server:
    """A real `mlflow server` on a free port, which can be killed and started again."""

    def __init__(self, folder):
        self.port = free_port()
        self.uri, self._folder = f"http://127.0.0.1:{self.port}", folder

    def start(self):
        store = ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db", "--workers", "1"]
        artifacts = ["--artifacts-destination", str(self._folder / "artifacts"), "--port", str(self.port)]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", *store, *artifacts]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            assert time.monotonic() < deadline and self._process.poll() is None
            time.sleep(0.3)

    def kill(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def server(tmp_path, uri):
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def test_what_a_server_missed_waits_and_is_delivered_once_when_it_is_back(factory, server, uri, caplog):
    results = [factory.cell("lora", 41_472, seed, 0.8, adapter=True) for seed in range(4)]
    tracker = Tracker.open(server.uri, "demo", "demo")
    assert tracker.log_cell(results[0], folder_of(factory, results[0]))
    tracker.retry_seconds = 3600.0  # the server may take long to start
    server.kill()
    with caplog.at_level(logging.WARNING):
        for result in results[1:3]:
            assert not tracker.log_cell(result, folder_of(factory, result))
        server.start()
        assert not tracker.log_cell(results[3], folder_of(factory, results[3]))  # not asked again for a while
        tracker.retry_seconds = 0.0
        assert tracker.log_report(curve_table(results, factory.folder), [], "digest")
        tracker.close()
    assert [("is away" in r.message, "is back" in r.message) for r in caplog.records] == [(True, False), (False, True)]
    found = runs(uri)
    assert sorted(run.data.tags[CELL] for run in found if CELL in run.data.tags) == sorted(r.id for r in results)
    assert {run.info.status for run in found} == {"FINISHED"}
    assert all(run.data.metrics["parameters"] for run in found if CELL in run.data.tags)
    client = MlflowClient(server.uri)
    assert all(client.list_artifacts(run.info.run_id, "adapter") for run in found if CELL in run.data.tags)


def test_a_deleted_experiment_is_named(uri):
    tracker = Tracker.open(uri, "gone", "gone")
    MlflowClient(tracking_uri=uri).delete_experiment(tracker.experiment_id)
    with pytest.raises(BadRequestError, match="'gone' was deleted"):
        Tracker.open(uri, "gone", "gone")


def test_where_to_look(factory, uri, monkeypatch):
    tracker = Tracker.open(uri, "demo", "demo")
    for seed in range(2):
        result = factory.cell("lora", 41_472, seed, 0.8)
        tracker.log_cell(result, folder_of(factory, result))
    assert tracker.curve_url is None
    tracker.log_report(curve_table([result], factory.folder), [], "digest")
    assert tracker.how_to_look["MLflow"] == f"mlflow ui --backend-store-uri {uri}"
    assert tracker.how_to_look["its curve"].startswith("http://127.0.0.1:5000/#/metric?runs=%5B%22")
    assert f"plot_metric_keys={quote(json.dumps(['curve/lora']))}&" in tracker.how_to_look["its curve"]
    tracker.uri = "http://user:secret@localhost:5000"
    assert tracker.comparison_url.startswith("http://localhost:5000/#/compare-runs?runs=%5B%22")
    assert tracker.how_to_look["its comparison"] == tracker.comparison_url
    monkeypatch.setattr("adapad_ray.tracking.tracker.LONGEST_LINK", 100)  # as with very many runs
    assert tracker.how_to_look["its runs"] == f"http://localhost:5000/#/experiments/{tracker.experiment_id}"
    assert "its comparison" not in tracker.how_to_look


def test_artifacts_stand_beside_the_database_and_nothing_is_printed(factory, tmp_path, capfd):
    result = factory.cell("lora", 41_472, 0, 0.8, adapter=True)
    uri = f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"
    tracker = Tracker.open(uri, "demo", "demo")
    tracker.log_cell(result, folder_of(factory, result))
    tracker.close()
    assert list((tmp_path / "store" / "mlartifacts").rglob("adapter_config.json"))
    assert capfd.readouterr() == ("", "")
