"""Which adapter of a finished sweep is exported: by the words of its file, its table and its figure."""

from __future__ import annotations

import json

import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.report.inputs import Gap, ReportInputs
from adapad_ray.report.page import build_report
from adapad_ray.report.sections.summary import Summary
from adapad_ray.sweep.export import AdapterChoice, NotInSweepError, export_adapter, recommended_adapter
from adapad_ray.sweep.manifest import Manifest
from tests.report.factory import RANK_ONE, SweepFactory

ONE_EACH = 36 * RANK_ONE


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """adapad with prefixes, lora, and the frozen backbone; one half of adapad's size is as good as all of it."""
    factory = SweepFactory(tmp_path_factory.mktemp("sweep"), items=2000)
    for seed, accuracy in enumerate((0.79, 0.81, 0.80)):
        factory.cell("adapad", 4 * ONE_EACH, seed, accuracy, prefixes={2: accuracy, 1: 0.6}, adapter=True)
        factory.cell("lora", 2 * ONE_EACH, seed, 0.7, adapter=True)
        factory.cell("head_only", None, seed, 0.5)
    gaps = [Gap("lora", 500, "budget 500 is below one component"), Gap("dora", 500, "budget 500 is below rank 1")]
    Manifest(title="s", labels=None, gaps=gaps, failed=[], delta=0.03, mlflow="").save(factory.folder)
    build_report(factory.folder, ReportInputs(title="s", delta=0.03, draws=300), [Summary])
    return factory.folder


def exported(sweep, to, *choice, **options):
    return export_adapter(sweep, to, AdapterChoice(*choice, **options))


def test_the_recommended_adapter_is_the_one_that_the_report_names(sweep, tmp_path):
    choice = recommended_adapter(sweep)
    assert (choice.label, choice.prefix, choice.seed) == ("adapad", "2", 1)
    found = export_adapter(sweep, tmp_path / "out", choice)
    cell, point, missing = found.cell, found.point, found.missing
    assert repr(found) == f"<{found.sentence}>" and str(tmp_path / "out") in found.sentence
    recommendation = json.loads((sweep / "recommendation.json").read_text())
    assert recommendation["adapter"] == f"cells/{cell.id}/{point.adapter}" and missing == 0


@pytest.mark.parametrize("prefix", ["2", str(2 * ONE_EACH), f"{2 * ONE_EACH:,}", "82.9k", "82.944k"])
def test_a_prefix_is_meant_by_its_components_or_by_its_size(sweep, tmp_path, prefix):
    assert exported(sweep, tmp_path / "out", "adapad", "165.888k", prefix=prefix).point.prefix == 2


def test_what_is_listed_are_the_points_of_the_label_with_sizes_and_seeds(sweep, tmp_path):
    with pytest.raises(NotInSweepError, match="adapad at 166k has no prefix 7") as error:
        exported(sweep, tmp_path / "out", "adapad", "166k", prefix="7")
    assert [(point.prefix, set(point.parameters), point.seeds) for point in error.value.available] == [
        (k, {(k or 4) * ONE_EACH}, (0, 1, 2)) for k in (None, 2, 1)
    ]


@pytest.mark.parametrize(("label", "reason"), [("lora", "below one component"), ("dora", "below rank 1")])
def test_a_gap_is_named_with_its_reason(sweep, tmp_path, label, reason):
    with pytest.raises(NotInSweepError, match=f"{label} at 500 cannot exist: budget 500 is {reason}"):
        exported(sweep, tmp_path / "out", label, "500")


def test_a_reference_is_no_adapter(sweep, tmp_path):
    with pytest.raises(BadRequestError, match="head_only deploys no adapter"):
        exported(sweep, tmp_path / "out", "head_only", "0")


def test_where_no_adapter_is_needed_the_smallest_that_is_as_good_is_named(tmp_path):
    factory = SweepFactory(tmp_path / "sweep", items=2000)
    for seed in range(3):
        factory.cell("head_only", None, seed, 0.8)
        factory.cell("lora", ONE_EACH, seed, 0.8, adapter=True)
    build_report(factory.folder, ReportInputs(title="s", delta=0.03, draws=300), [Summary])
    with pytest.raises(BadRequestError, match=f"no adapter is needed: .*has --method lora --budget {ONE_EACH}$"):
        recommended_adapter(factory.folder)


def test_a_folder_without_a_recommendation_is_rejected(tmp_path):
    with pytest.raises(BadRequestError, match="has no recommendation"):
        recommended_adapter(tmp_path)
