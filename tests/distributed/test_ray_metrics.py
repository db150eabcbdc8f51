"""Metrics on a node's port for Prometheus while cells run, and those that remain afterwards."""

import time
import urllib.request

import pytest
import ray
from pool_helpers import run_jobs

from adapad_ray.distributed.ray_metrics import CELL_METRICS, CELL_TAGS
from adapad_ray.results import CellResult
from adapad_ray.testing import COST_PER_RANK, MethodCase

pytestmark = pytest.mark.xdist_group("clusters")

CASES = {
    "components": MethodCase("adapad", 3 * COST_PER_RANK, {"initial_rank": 0, "local_steps": 2, "growth_interval": 4}),
    "replicas": MethodCase("lora", COST_PER_RANK),
}


def scrape(address):
    """The samples of our metrics: name → {tags: value}."""
    from prometheus_client.parser import text_string_to_metric_families

    text = urllib.request.urlopen(address, timeout=10).read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("ray_adapad_"):
                tags = {k: v for k, v in sample.labels.items() if k in (*CELL_TAGS, "lane", "module", "phase", "kind")}
                found.setdefault(sample.name, {})[frozenset(tags.items())] = sample.value
    return found


def wait_for(address, condition):
    deadline = time.monotonic() + 90
    while not condition(found := scrape(address)):
        assert time.monotonic() < deadline, found
        time.sleep(0.5)
    return found


def values(found, name, **tags):
    """Tag dict → value of the samples that have these tags."""
    return [(dict(key), value) for key, value in found.get(name, {}).items() if tags.items() <= dict(key).items()]


@pytest.fixture(scope="module")
def exported(pair, tmp_path_factory):
    """Both cells computed by two workers: their records, and what the node exports then and some seconds later.

    Ray exports nothing where the packages of its extra `default` are missing.
    """
    pytest.importorskip("opentelemetry.exporter.prometheus")
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    folder = tmp_path_factory.mktemp("cells")
    jobs = {}
    for name, case in CASES.items():
        identity = case.identity().model_dump(mode="json")
        payload = {"sweep": "metered", "identity": identity, "folder": str(folder / name), "base_model": "tiny"}
        jobs[name] = {**payload, "checkpoint_seconds": 60.0, "checkpoint_rounds": None}
    assert {outcome.status for outcome in run_jobs(pair, jobs).values()} == {"done"}
    gauge = "ray_adapad_staleness_rounds"
    then = wait_for(address, lambda found: len(values(found, gauge, sweep="metered")) == 4)
    later = wait_for(address, lambda found: not values(found, gauge, sweep="metered"))
    results = {name: CellResult.model_validate_json((folder / name / "result.json").read_text()) for name in CASES}
    return results, then, later


def test_every_metric_is_exported_with_its_tags(exported):
    _, found, _ = exported
    names = {metric.exported_name: metric for metric in CELL_METRICS}
    assert found.keys() == names.keys()
    for name, metric in names.items():
        for tags, _ in values(found, name, cell="components"):
            assert tags.keys() == {*CELL_TAGS, *metric.tags}
            assert (tags["sweep"], tags["label"]) == ("metered", "adapad")


def test_worker_0_reports_the_cell_and_every_worker_its_lanes(exported):
    results, found, _ = exported
    final = results["components"].final
    ((tags, spent),) = values(found, "ray_adapad_budget_used_parameters", cell="components")
    assert (tags["worker"], spent) == ("0", final.parameters)
    ranks = {tags["module"]: rank for tags, rank in values(found, "ray_adapad_rank", cell="components")}
    assert {module: rank for module, rank in ranks.items() if rank} == final.ranks
    lanes = {(tags["worker"], tags["lane"]) for tags, _ in values(found, "ray_adapad_loss", cell="components")}
    assert lanes == {(str(k % 2), str(k)) for k in range(1, max(final.ranks.values()) + 1)}, "no lane that has ended"


def test_counters_add_up_to_the_record_of_the_cell_and_stay(exported):
    results, _, later = exported
    for name, result in results.items():
        tokens = sum(value for _, value in values(later, "ray_adapad_tokens_total", cell=name))
        assert tokens == result.cost.tokens
        for cost in result.cost.per_worker:
            mine = {"cell": name, "worker": str(cost.rank)}
            ((_, published),) = values(later, "ray_adapad_published_bytes_total", **mine)
            ((_, waited),) = values(later, "ray_adapad_seconds_total", **mine, phase="exchange")
            assert published == cost.bytes_published
            assert waited == pytest.approx(cost.exchange_seconds)


def test_the_gauges_of_a_cell_that_has_ended_are_gone(exported):
    _, _, later = exported
    assert all(name.endswith("_total") for name, samples in later.items() if samples)
