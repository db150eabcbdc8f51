"""A report becomes one run per digest, with the curve as a metric over parameter counts."""

from mlflow import MlflowClient

from adapad_ray.report.curves import Curves
from adapad_ray.tracking.names import REPORT
from adapad_ray.tracking.tracker import Tracker
from tests.tracking.helpers import runs


def test_the_curve_is_a_metric_whose_step_is_the_parameter_count(factory, uri):
    results = factory.sweep(seeds=2)
    table = Curves(results, factory.folder, draws=20).table()
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
