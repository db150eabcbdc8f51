"""Prometheus scrapes a real cluster during a sweep: the queries of all panels and alerts return data."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from clusters import Head, wait_until

from dashboards import generate
from dashboards.panels import DASHBOARDS
from dashboards.rules import ALERTS, RECORDINGS
from tests.ports import free_port

pytestmark = [
    pytest.mark.xdist_group("clusters"),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]


@dataclass
class Prometheus:
    """A server that scrapes every second; `since` is the time of its start."""

    port: int
    since: float

    def get(self, path: str, **parameters: object) -> dict:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}?{query}", timeout=30) as reply:
            return json.load(reply)["data"]

    def series(self, expression: str) -> list[dict]:
        """The series of an expression since the start, for all sweeps and cells."""
        expression = expression.replace("$sweep", ".*").replace("$cell", ".*")
        span = {"start": self.since, "end": time.time(), "step": 2}
        return list(self.get("/api/v1/query_range", query=expression, **span)["result"])


@pytest.fixture(scope="module")
def prometheus(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A server that has scraped the cluster during a sweep with two workers per cell."""
    folder = tmp_path_factory.mktemp("prometheus")
    configuration = generate.prometheus(str(head.folder / "prom_metrics_service_discovery.json"), interval="1s")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    shutil.copy(Path(generate.__file__).parent / "prometheus" / "adapad.rules.yml", folder)
    server = Prometheus(free_port(), time.time())
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{server.port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    shared = tmp_path_factory.mktemp("shared")
    content = {
        "name": "watched",
        "model": "linear",
        "task": {"type": "bilinear", "in_features": 16, "out_features": 16, "examples": 128},
        "methods": {"adapad": {"local_steps": 5, "staleness": 1, "initial_rank": 0}, "lora": {}},
        "budgets": ["4 ranks"],
        "seeds": [0],
        "reference": False,
        # Long enough for two reports of every counter; a rate needs two.
        "training": {"epochs": 600, "optimizer": "sgd", "learning_rate": 0.02},
        "resources": {"workers": 2, "cpus_per_worker": 1},
        "storage": str(shared / "runs"),
        "tracking": f"sqlite:///{shared}/mlflow.db",
    }
    (shared / "watched.yaml").write_text(yaml.safe_dump(content))
    try:
        submitting = head.submit(shared / "watched.yaml", "--shared", shared)
        output, _ = submitting.communicate(timeout=240)
        assert submitting.returncode == 0, output
        wait_until(lambda: server.series('ray_adapad_cells{state="done"} == 2'), "last report of the sweep", 20)
        yield server
    finally:
        process.terminate()
        process.wait()


QUERIES = {
    f"{board.uid}: {panel.title} {letter}": query
    for board in DASHBOARDS
    for panel in board.panels
    for letter, query in zip("ABCDEF", panel.queries, strict=False)
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_panel_has_data_or_a_reason_to_have_none(name, prometheus):
    assert prometheus.series(QUERIES[name].expr) or QUERIES[name].empty


@pytest.mark.parametrize("rule", RECORDINGS, ids=lambda rule: rule.name)
def test_a_recording_rule_has_data(rule, prometheus):
    assert prometheus.series(rule.expr) and prometheus.series(rule.name)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_has_data_or_a_reason_to_have_none_and_does_not_fire(alert, prometheus):
    assert prometheus.series(alert.value) or alert.empty
    assert not prometheus.series(f'ALERTS{{alertname="{alert.name}", alertstate="firing"}}')


def test_variables_of_the_dashboards_have_values(prometheus):
    for board in DASHBOARDS:
        for name, metric in board.variables:
            labels = [series["metric"].get(name) for series in prometheus.series(metric.exported_name)]
            assert all(labels) and ("watched" in labels or name == "cell")
