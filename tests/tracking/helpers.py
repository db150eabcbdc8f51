"""Reads runs back from a store, and starts a real server."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

from mlflow import MlflowClient

from adapad_ray.tracking.names import CELL
from tests.ports import free_port


def runs(uri, experiment="demo"):
    client = MlflowClient(tracking_uri=uri)
    return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])


def folder_of(factory, result):
    return factory.folder / "cells" / result.id


def series(uri, result):
    """Metric name → [(step, value)] of the cell's run."""
    client = MlflowClient(tracking_uri=uri)
    (run,) = [run for run in runs(uri) if run.data.tags.get(CELL) == result.id]
    history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: sorted((m.step, m.value) for m in values) for name, values in history.items()}


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
        deadline = time.monotonic() + 240
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            assert self._process.poll() is None, f"the server has ended; was port {self.port} taken?"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.3)

    def kill(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
