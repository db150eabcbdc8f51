"""Generates the files for Grafana and Prometheus: `python -m dashboards.generate` in the repository's root.

`panels.py` and `rules.py` define the content, `adapad_ray/distributed/ray_metrics.py` the names of the metrics. The
files are in git, so that they can be used without Python; a test checks that they are up to date.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from adapad_ray.files import write_text
from dashboards.panels import DASHBOARDS, Dashboard, Panel, Query
from dashboards.rules import ALERTS, RECORDINGS, Alert

HERE = Path(__file__).parent
OPERATIONS = HERE.parent / "docs" / "operations.md"
PANEL_HEIGHT = 8
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
DISCOVERY = "/tmp/ray/prom_metrics_service_discovery.json"
"""File in which Ray's head lists the addresses to scrape, in Ray's default temporary folder."""
SCRAPE_INTERVAL = "10s"
"""Ray exports metrics every 10 s."""


def files() -> dict[str, str]:
    """Path relative to this folder → text, for every generated file."""
    return {
        **{f"grafana/{board.uid}.json": json.dumps(grafana(board), indent=2) + "\n" for board in DASHBOARDS},
        "grafana/provider.yaml": _yaml(PROVIDER),
        "prometheus/adapad.rules.yml": _yaml(rules()),
        "prometheus/rule.yaml": _yaml(RESOURCE | {"spec": rules()}),
        "prometheus/prometheus.yml": _yaml(prometheus(DISCOVERY)),
    }


PROVIDER = {
    "apiVersion": 1,
    "providers": [
        {"name": "adapad", "folder": "adapad", "type": "file", "options": {"path": "/etc/grafana/dashboards/adapad"}}
    ],
}
"""Grafana's configuration of the folder with the dashboards; it goes into `provisioning/dashboards`."""


RESOURCE = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "adapad"}}
"""The rules for the Prometheus operator on Kubernetes."""


def prometheus(discovery: str, interval: str = SCRAPE_INTERVAL) -> dict[str, Any]:
    """Prometheus's configuration: all nodes that Ray's head lists, and the rules file next to it."""
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": ["adapad.rules.yml"],
        "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [discovery], "refresh_interval": "10s"}]}],
    }


def rules() -> dict[str, Any]:
    """Recording rules and alerts in Prometheus's format."""
    recordings = [{"record": rule.name, "expr": rule.expr} for rule in RECORDINGS]
    alerts = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.wait,
            "labels": {"severity": alert.severity},
            "annotations": {"summary": alert.summary, "description": alert.advice},
        }
        for alert in ALERTS
    ]
    return {"groups": [{"name": "adapad", "rules": recordings}, {"name": "adapad-alerts", "rules": alerts}]}


def grafana(board: Dashboard) -> dict[str, Any]:
    """A dashboard in Grafana's JSON model (schema 39, Grafana 10.3 or newer)."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in board.rows:
        panels.append(_at({"type": "row", "title": title, "collapsed": False, "panels": []}, 0, y, 24, 1))
        x, y = 0, y + 1
        for panel in row:
            if x + panel.width > 24:
                x, y = 0, y + PANEL_HEIGHT
            panels.append(_at(_panel(panel), x, y, panel.width, PANEL_HEIGHT))
            x += panel.width
        y += PANEL_HEIGHT
    return {
        "uid": board.uid,
        "title": board.title,
        "description": board.description,
        "tags": ["adapad"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": SCRAPE_INTERVAL,
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": _variables(board)},
        "panels": [{"id": number, **panel} for number, panel in enumerate(panels, 1)],
    }


def _at(panel: dict[str, Any], x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {**panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _variables(board: Dashboard) -> list[dict[str, Any]]:
    variables: list[dict[str, Any]] = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "hide": 2, "refresh": 1}
    ]
    matchers: list[str] = []
    for name, metric in board.variables:
        query = f"label_values({metric.exported_name}{{{','.join(matchers)}}}, {name})"
        variables.append(
            {
                "name": name,
                "type": "query",
                "datasource": DATASOURCE,
                "definition": query,
                "query": {"query": query, "refId": "StandardVariableQuery"},
                "refresh": 2,
                "sort": 1,
                "includeAll": True,
                "multi": True,
                "allValue": ".*",
                "current": {"text": ["All"], "value": ["$__all"]},
            }
        )
        matchers.append(f'{name}=~"${name}"')
    return variables


def _panel(panel: Panel) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {
            "fillOpacity": 10,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "scaleDistribution": {"type": "log", "log": 10} if panel.logarithmic else {"type": "linear"},
        }
    model: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "targets": [_target(query, chr(ord("A") + i)) for i, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
    }
    if panel.kind == "gauge":
        model["fieldConfig"]["defaults"] |= {"min": 0, "max": 1}
    return model | _matched_by_cell() if panel.kind == "xychart" else model


def _matched_by_cell() -> dict[str, Any]:
    """One point per cell: x is the first query's value, y the second's; one colour per label."""
    return {
        "transformations": [
            {"id": "joinByField", "options": {"byField": "cell", "mode": "inner"}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time 1": True, "Time 2": True, "label 2": True, "stage 2": True},
                    "renameByName": {
                        "Value #A": "parameters",
                        "Value #B": "validation metric",
                        "label 1": "label",
                        "stage 1": "stage",
                    },
                },
            },
            {"id": "partitionByValues", "options": {"fields": ["label"], "keepFields": True}},
        ],
        "options": {
            "mapping": "auto",
            "series": [],
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "single"},
        },
    }


def _target(query: Query, letter: str) -> dict[str, Any]:
    shape = {"instant": True, "range": False, "format": "table"} if query.table else {"range": True, "instant": False}
    return {"refId": letter, "datasource": DATASOURCE, "expr": query.expr, "legendFormat": query.legend, **shape}


def _yaml(content: dict[str, Any]) -> str:
    return "# Written by dashboards/generate.py.\n" + yaml.safe_dump(content, sort_keys=False, width=120)


def with_alerts(page: str) -> str:
    """Replaces the table of alerts between two comments of a Markdown page."""
    head, opening, rest = page.partition("<!-- alerts: written by dashboards/generate.py -->\n")
    _, closing, tail = rest.partition("<!-- end of alerts -->")
    rows = [f"| `{alert.name}` ({alert.severity}) | `{_plain(alert)}` | {alert.advice} |\n" for alert in ALERTS]
    return "".join(
        [
            head,
            opening,
            "\n| alert | when | what it means, and what to do |\n|---|---|---|\n",
            *rows,
            "\n",
            closing,
            tail,
        ]
    )


def _plain(alert: Alert) -> str:
    held = f" for {alert.wait}" if alert.wait != "0s" else ""
    return f"{alert.expr}{held}".replace("|", "\\|")


def main() -> None:
    """Writes the files and the table of alerts in docs/operations.md."""
    for name, text in files().items():
        write_text(HERE / name, text)
    write_text(OPERATIONS, with_alerts(OPERATIONS.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
