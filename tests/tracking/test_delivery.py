"""A store that fails costs one warning; what it misses is logged once, when it works again."""

import logging
import signal

import pytest
from mlflow import MlflowClient

from adapad_ray.report.curves import Curves
from adapad_ray.tracking.names import CELL
from adapad_ray.tracking.tracker import Tracker
from tests.tracking.helpers import Server, folder_of, runs, series


def test_a_failing_store_costs_one_warning_and_does_not_stop_the_sweep(factory, uri, caplog, monkeypatch):
    result = factory.cell("lora", 41_472, 0, 0.8)
    tracker = Tracker.open(uri, "demo", "demo")

    def away(*_args, **_kwargs):
        from mlflow.exceptions import MlflowException

        raise MlflowException("no route to host")

    monkeypatch.setattr(tracker.runs.client, "log_batch", away)
    with caplog.at_level(logging.WARNING):
        assert not tracker.log_cell(result, folder_of(factory, result))
        assert not tracker.log_cell(result, folder_of(factory, result))
        tracker.close()
    assert len(caplog.records) == 2 and "launch the sweep again" in caplog.text
    later = Tracker.open(uri, "demo", "demo")
    assert later.log_cell(result, folder_of(factory, result))
    later.close()
    assert {run.info.status for run in runs(uri)} == {"FINISHED"}


def test_progress_that_cannot_be_logged_is_dropped_and_the_finished_cell_has_it_all(factory, uri, caplog, monkeypatch):
    result = factory.cell("lora", 41_472, 0, 0.8)
    tracker = Tracker.open(uri, "demo", "demo")
    tracker.loss_seconds = tracker.deliveries.retry_seconds = 0.0
    log_batch = tracker.runs.client.log_batch

    def away(*_args, **_kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(tracker.runs.client, "log_batch", away)
    for step in (10, 20, 30):
        progress = {"step": step, "loss": result.train_loss[step - 1]}
        assert not tracker.log_progress(result.id, result.identity, progress)
    assert len(caplog.records) == 1
    monkeypatch.setattr(tracker.runs.client, "log_batch", log_batch)
    assert tracker.log_cell(result, folder_of(factory, result))
    tracker.close()
    assert series(uri, result)["train_loss"] == list(enumerate(result.train_loss))
    (child,) = [run for run in runs(uri) if CELL in run.data.tags]
    assert child.info.status == "FINISHED" and child.data.params["seed"] == "0"


def test_an_interrupt_waits_for_the_current_write(factory, uri, monkeypatch):
    result = factory.cell("lora", 41_472, 0, 0.8)
    tracker = Tracker.open(uri, "demo", "demo")
    write = tracker.runs.client.log_batch

    def interrupted_write(*arguments):
        monkeypatch.setattr(tracker.runs.client, "log_batch", write)  # a second interrupt would not wait
        signal.raise_signal(signal.SIGINT)
        write(*arguments)

    monkeypatch.setattr(tracker.runs.client, "log_batch", interrupted_write)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            tracker.log_cell(result, folder_of(factory, result))
    finally:
        signal.signal(signal.SIGINT, before)
    tracker.close("KILLED")
    (cell,) = [run for run in runs(uri) if CELL in run.data.tags]
    assert cell.info.status == "FINISHED" and cell.data.metrics["parameters"]


@pytest.fixture
def server(tmp_path, uri):
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def test_what_a_server_missed_is_logged_once_when_it_is_back(factory, server, uri, caplog):
    results = [factory.cell("lora", 41_472, seed, 0.8, adapter=True) for seed in range(4)]
    tracker = Tracker.open(server.uri, "demo", "demo")
    tracker.log_adapters = True
    assert tracker.log_cell(results[0], folder_of(factory, results[0]))
    tracker.deliveries.retry_seconds = 3600.0  # the server may take long to start
    server.kill()
    with caplog.at_level(logging.WARNING):
        for result in results[1:3]:
            assert not tracker.log_cell(result, folder_of(factory, result))
        server.start()
        assert not tracker.log_cell(results[3], folder_of(factory, results[3]))  # not tried again for a while
        tracker.deliveries.retry_seconds = 0.0
        assert tracker.log_report(Curves(results, factory.folder).table(), [], "digest")
        tracker.close()
    assert [("is unavailable" in r.message, "is available again" in r.message) for r in caplog.records] == [
        (True, False),
        (False, True),
    ]
    found = runs(uri)
    assert sorted(run.data.tags[CELL] for run in found if CELL in run.data.tags) == sorted(r.id for r in results)
    assert {run.info.status for run in found} == {"FINISHED"}
    assert all(run.data.metrics["parameters"] for run in found if CELL in run.data.tags)
    client = MlflowClient(server.uri)
    assert all(client.list_artifacts(run.info.run_id, "adapter") for run in found if CELL in run.data.tags)
