"""The dashboards and rules in git are those of the generator, and their metrics exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from adapad_ray.distributed.ray_metrics import CELL_METRICS, SWEEP_METRICS
from dashboards import generate
from dashboards.panels import DASHBOARDS
from dashboards.rules import ALERTS, RECORDINGS

FOLDER = Path(generate.__file__).parent
NAMES = {metric.exported_name for metric in (*CELL_METRICS, *SWEEP_METRICS)}
EXPRESSIONS = [q.expr for board in DASHBOARDS for panel in board.panels for q in panel.queries]
RULES = [rule.expr for rule in RECORDINGS] + [alert.expr for alert in ALERTS]

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def test_the_files_in_git_are_up_to_date():
    for name, text in generate.files().items():
        assert (FOLDER / name).read_text() == text, f"{name}: run python -m dashboards.generate"


def test_the_operations_page_has_every_alert():
    page = generate.OPERATIONS.read_text()
    assert generate.with_alerts(page) == page, "run python -m dashboards.generate"
    assert all(alert.advice in page for alert in ALERTS)


def test_queries_and_rules_use_every_metric_and_no_other():
    recorded = {rule.name for rule in RECORDINGS}
    read = set(re.findall(r"ray_adapad_\w+|adapad:[\w:]+", " ".join(EXPRESSIONS + RULES)))
    assert read == NAMES | recorded


def test_panels_do_not_overlap_and_their_queries_have_different_letters():
    for board in DASHBOARDS:
        model = json.loads((FOLDER / f"grafana/{board.uid}.json").read_text())
        taken = set()
        for panel in model["panels"]:
            position = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(position["x"], position["x"] + position["w"])
                for y in range(position["y"], position["y"] + position["h"])
            }
            assert not cells & taken and position["x"] + position["w"] <= 24
            taken |= cells
            letters = [target["refId"] for target in panel.get("targets", [])]
            assert len(set(letters)) == len(letters)
        assert len({panel["id"] for panel in model["panels"]}) == len(model["panels"])


def test_queries_use_all_variables_of_their_dashboard_and_no_other():
    for board in DASHBOARDS:
        used = set(re.findall(r"\$(\w+)", " ".join(q.expr for panel in board.panels for q in panel.queries)))
        assert used == {name for name, _ in board.variables}


@needs_promtool
def test_prometheus_accepts_configuration_and_rules():
    done = subprocess.run(
        ["promtool", "check", "config", str(FOLDER / "prometheus/prometheus.yml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(RULES)} rules found" in done.stdout


SERIES = {
    "AdapadCellStuck": {'ray_adapad_cell_silent_seconds{sweep="s", cell="c", label="lora"}': "0+60x60"},
    "AdapadNothingRuns": {
        'ray_adapad_cells{sweep="s", state="waiting"}': "4x60",
        'ray_adapad_cells{sweep="s", state="running"}': "0x60",
    },
    "AdapadNotANumber": {'ray_adapad_cell_failures{sweep="s", label="lora", error="DivergedError"}': "_x10 1x50"},
    "AdapadCellsFail": {'ray_adapad_cell_failures{sweep="s", label="lora", error="WorkerDied"}': "_x10 1x50"},
    "AdapadStalenessAtBound": {
        'ray_adapad_staleness_rounds{sweep="s", cell="c", label="adapad", worker="0"}': "2x60",
        'ray_adapad_seconds_total{sweep="s", cell="c", label="adapad", worker="0", phase="wait"}': "0+30x60",
        'ray_adapad_seconds_total{sweep="s", cell="c", label="adapad", worker="0", phase="compute"}': "0+30x60",
    },
    "AdapadWorkersRestart": {'ray_adapad_cell_restarts{sweep="s"}': "0x20 1+1x40"},
}
"""Series that make each alert fire, with a value every 30 s."""

HEALTHY = {
    'ray_adapad_cell_silent_seconds{sweep="h", cell="c", label="lora"}': "1x60",
    'ray_adapad_cells{sweep="h", state="waiting"}': "4x60",
    'ray_adapad_cells{sweep="h", state="running"}': "2x60",
    'ray_adapad_staleness_rounds{sweep="h", cell="c", label="adapad", worker="0"}': "2x60",
    'ray_adapad_seconds_total{sweep="h", cell="c", label="adapad", worker="0", phase="wait"}': "0+1x60",
    'ray_adapad_seconds_total{sweep="h", cell="c", label="adapad", worker="0", phase="compute"}': "0+30x60",
    'ray_adapad_cell_restarts{sweep="h"}': "0x20 1x40",
}


@needs_promtool
def test_every_alert_fires_for_its_own_series_and_for_no_other(tmp_path):
    assert SERIES.keys() == {alert.name for alert in ALERTS}
    content = {
        "rule_files": [str(FOLDER / "prometheus/adapad.rules.yml")],
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "30s",
                "input_series": [
                    {"series": series, "values": values} for series, values in (SERIES[alert.name] | HEALTHY).items()
                ],
                "promql_expr_test": [
                    {
                        "expr": f'count by (alertname, sweep)(ALERTS{{alertname="{other.name}", alertstate="firing"}})',
                        "eval_time": "29m",
                        "exp_samples": [{"labels": f'{{alertname="{other.name}", sweep="s"}}', "value": 1}]
                        if other is alert
                        else [],
                    }
                    for other in ALERTS
                ],
            }
            for alert in ALERTS
        ],
    }
    path = tmp_path / "alerts.yml"
    path.write_text(yaml.safe_dump(content))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
