"""Addresses of MLflow pages: the curve, the comparison of runs, the experiment."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from adapad_ray.tracking.report_run import LoggedReport
from adapad_ray.tracking.store import is_server, sqlite_path, without_password

RUNS_IN_LINK = 100
"""Most runs in one comparison."""
PAGE = "mlflow.html"
"""Name of the page of links in a sweep's folder."""


@dataclass(frozen=True)
class Links:
    """Pages of one experiment. For a database they work while `serve_command` runs."""

    uri: str
    experiment_id: str

    @property
    def serve_command(self) -> str | None:
        """The command that serves a database; None for a server."""
        if is_server(self.uri):
            return None
        return _serve(without_password(self.uri))

    @property
    def serve_command_here(self) -> str | None:
        """The same for the current folder: short, if the database is in it."""
        path = sqlite_path(self.uri)
        if path is None or path.parent != Path.cwd():
            return self.serve_command
        return _serve(f"sqlite:///{quote(path.name)}")

    @property
    def experiment(self) -> str:
        """The page of the experiment."""
        return f"{self._server}/#/experiments/{self.experiment_id}"

    def comparison(self, run_ids: Sequence[str]) -> str:
        """The comparison of these runs; with fewer than two runs, the page of the experiment."""
        if len(run_ids) < 2:
            return self.experiment
        runs, experiments = json.dumps(list(run_ids[:RUNS_IN_LINK])), json.dumps([self.experiment_id])
        return f"{self._server}/#/compare-runs?runs={quote(runs)}&experiments={quote(experiments)}"

    def curve(self, report: LoggedReport) -> str:
        """The curves of a report in one chart; the x axis is the parameter count."""
        content: dict[str, Any] = {
            "runs": [report.run_id],
            "metric": report.curves[0],
            "experiments": [self.experiment_id],
            "plot_metric_keys": report.curves,
            "plot_layout": {},
            "deselected_curves": [],
            "last_linear_y_axis_range": [],
        }
        query = "&".join(f"{name}={quote(json.dumps(value))}" for name, value in content.items())
        return f"{self._server}/#/metric?{query}&x_axis=step&y_axis_scale=linear&line_smoothness=1&show_point=true"

    @property
    def _server(self) -> str:
        return without_password(self.uri).rstrip("/") if is_server(self.uri) else "http://127.0.0.1:5000"


def _serve(store: str) -> str:
    return shlex.join(["mlflow", "ui", "--backend-store-uri", store])


def links_page(links: Mapping[str, str], serve_command: str | None) -> str:
    """A page of HTML with links by their names, and the command without which they lead nowhere."""
    serve = f"<p>The links work while this runs: <code>{escape(serve_command)}</code></p>\n" if serve_command else ""
    items = "".join(f'<li><a href="{escape(link)}">{escape(name)}</a></li>\n' for name, link in links.items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>MLflow</title></head>\n'
        f"<body><h1>This sweep in MLflow</h1>\n{serve}<ul>\n{items}</ul></body></html>\n"
    )
