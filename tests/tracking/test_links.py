"""Where to look: links to the curve and the comparison, and the command that serves a database."""

import json
from html import unescape
from urllib.parse import quote

from adapad_ray.report.curves import Curves
from adapad_ray.tracking.links import PAGE
from adapad_ray.tracking.tracker import Tracker
from tests.tracking.helpers import folder_of


def test_where_to_look(factory, uri, tmp_path, monkeypatch):
    tracker = Tracker.open(uri, "demo", "demo")
    for seed in range(2):
        result = factory.cell("lora", 41_472, seed, 0.8)
        tracker.log_cell(result, folder_of(factory, result))
    tracker.write_page(tmp_path)
    assert "The curve" not in (tmp_path / PAGE).read_text()
    tracker.log_report(Curves([result], factory.folder).table(), [], "digest")
    runs = f"http://127.0.0.1:5000/#/experiments/{tracker.experiment_id}"
    assert tracker.how_to_look == {"MLflow": f"mlflow ui --backend-store-uri {uri}", "MLflow runs": runs}
    tracker.write_page(tmp_path)
    page = unescape((tmp_path / PAGE).read_text())
    assert f"<code>mlflow ui --backend-store-uri {uri}</code>" in page and f'<a href="{runs}">' in page
    assert '<a href="http://127.0.0.1:5000/#/metric?runs=%5B%22' in page
    assert f"plot_metric_keys={quote(json.dumps(['curve/lora']))}&" in page
    monkeypatch.chdir(tmp_path)
    assert tracker.how_to_look["MLflow"] == "mlflow ui --backend-store-uri sqlite:///mlflow.db"


def test_a_server_is_looked_at_without_its_password(factory, uri, tmp_path):
    tracker = Tracker.open(uri, "demo", "demo")
    for seed in range(2):
        result = factory.cell("lora", 41_472, seed, 0.8)
        tracker.log_cell(result, folder_of(factory, result))
    tracker.uri = "http://user:secret@localhost:5000"
    tracker.write_page(tmp_path)
    assert tracker.comparison_url.startswith("http://localhost:5000/#/compare-runs?runs=%5B%22")
    assert f'<a href="{tracker.comparison_url}">' in unescape((tmp_path / PAGE).read_text())
    assert tracker.how_to_look == {"MLflow runs": f"http://localhost:5000/#/experiments/{tracker.experiment_id}"}
