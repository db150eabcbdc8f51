"""Sweeps in this process share worker groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from shared_workers import WORKERS
from small_tasks import write_models, write_questions
from synthetic import ONE_EACH, Recorder, Tracker

from adapad_ray.storage import WorkingFolder
from adapad_ray.sweep import run
from adapad_ray.sweep.observers import SweepObserver
from adapad_ray.sweep.run import Sweep
from adapad_ray.sweep.spec_file import parse_spec

HERE = Path(__file__).parent


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Gives the cluster's CPUs back before the tests of other folders, which may find it in their process."""
    if nextitem is None or HERE not in nextitem.path.parents:
        WORKERS.close()


@pytest.fixture(scope="module")
def shared_workers(cluster: None) -> Iterator[None]:
    """The sweeps of a module run on the session's cluster, in worker groups that stay open for the next sweep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "ray_executor", WORKERS.executor)
        yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the files of `small_tasks.TASKS` are."""
    return write_questions(tmp_path_factory.mktemp("questions"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of an encoder and of a decoder."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def tracker(monkeypatch):
    tracker = Tracker()
    monkeypatch.setattr(run.Tracker, "open", lambda *arguments: tracker)
    return tracker


@pytest.fixture
def launch(tiny_model, reviews, tmp_path, tracker, monkeypatch):
    """Launches the sweep of these fields in one folder; what it returned and what an observer was told."""
    monkeypatch.setattr(run, "build_report", lambda folder, inputs: None)
    monkeypatch.setattr(run, "SweepMetrics", lambda sweep: SweepObserver())
    content = {
        "name": "s",
        "model": str(tiny_model),
        "pooling": "mean",
        "task": {"train": str(reviews), "text": "review", "label": "stars"},
        "methods": {"lora": {}},
        "budgets": [ONE_EACH, 2 * ONE_EACH],
        "seeds": [0, 1],
        "training": {"max_length": 32},
    }

    def launch(executor, observers=(), **fields):
        recorder, folder = Recorder(), tmp_path / "runs" / "s"
        sweep = Sweep(
            parse_spec({**content, **fields}),
            WorkingFolder(str(folder), folder),
            [*observers, recorder],
            executor.open,
        )
        try:
            return sweep.run(), recorder
        except BaseException as error:
            error.recorder = recorder
            raise

    return launch


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "runs" / "s"
