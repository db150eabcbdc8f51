"""Where to look: links to the curve and the comparison, and the command that serves a database."""

import json
from urllib.parse import quote

from adapad_ray.report.curves import Curves
from adapad_ray.tracking.tracker import Tracker
from tests.tracking.helpers import folder_of


def test_where_to_look(factory, uri, monkeypatch):
    tracker = Tracker.open(uri, "demo", "demo")
    for seed in range(2):
        result = factory.cell("lora", 41_472, seed, 0.8)
        tracker.log_cell(result, folder_of(factory, result))
    assert tracker.curve_url is None
    tracker.log_report(Curves([result], factory.folder).table(), [], "digest")
    assert tracker.how_to_look["MLflow"] == f"mlflow ui --backend-store-uri {uri}"
    assert tracker.how_to_look["MLflow curve"].startswith("http://127.0.0.1:5000/#/metric?runs=%5B%22")
    assert f"plot_metric_keys={quote(json.dumps(['curve/lora']))}&" in tracker.how_to_look["MLflow curve"]
    tracker.uri = "http://user:secret@localhost:5000"
    assert tracker.comparison_url.startswith("http://localhost:5000/#/compare-runs?runs=%5B%22")
    assert tracker.how_to_look["MLflow comparison"] == tracker.comparison_url
    monkeypatch.setattr("adapad_ray.tracking.tracker.LONGEST_LINK", 100)  # as with very many runs
    assert tracker.how_to_look["MLflow runs"] == f"http://localhost:5000/#/experiments/{tracker.experiment_id}"
    assert "MLflow comparison" not in tracker.how_to_look
