"""The specifications of all interactive charts: valid for every value of their menus, and with safe data."""

import itertools
import json
from importlib.resources import files as resources

import pandas as pd
import pytest

from adapad_ray.report.inputs import ReportInputs
from adapad_ray.report.plots.plot import Choice, Plot, Switches, by_choice, columns_of, value_of
from adapad_ray.report.published import PublishedPoint
from adapad_ray.report.sections.cost import Costs
from adapad_ray.report.sections.curve import Curve
from adapad_ray.report.sections.ranks import Ranks
from adapad_ray.report.sections.training import Training
from adapad_ray.report.sweep_results import SweepResults
from tests.report.factory import SweepFactory

NEEDS = "needs vl-convert-python, of the extra `test`"


def resolved(node, state):
    """As `resolved` in `web/report.js`."""
    if isinstance(node, list):
        return [resolved(item, state) for item in node]
    if not isinstance(node, dict):
        return node
    if "$value" in node:
        return state[node["$value"]]
    if "$choice" in node:
        return resolved(node["options"][state[node["$choice"]]], state)
    if "$columns" in node:
        return 3
    return {key: resolved(value, state) for key, value in node.items()}


def states(plot):
    """Every combination of the values of menus, with all boxes checked and with none."""
    for checked in (True, False):
        boxes = {c.name: list(c.options) if checked else [] for c in plot.controls if isinstance(c, Switches)}
        menus = {c.name: list(c.options) for c in plot.controls if isinstance(c, Choice)}
        for values in itertools.product(*menus.values()):
            yield boxes | dict(zip(menus, values, strict=True))


@pytest.fixture(scope="module")
def plots(tmp_path_factory):
    factory = SweepFactory(tmp_path_factory.mktemp("runs") / "sweep", items=60)
    cell = factory.sweep(seeds=1)[-1]
    factory.rounds(cell, {1: [0.7, 0.6], 2: [0.6, 0.5]})
    published = [PublishedPoint(label="adapad", parameters="0.34M", value=0.87, source="2605.10741, Table I")]
    sweep = SweepResults(factory.folder, ReportInputs(title="t", draws=20, published=published))
    sections = [section.compute(sweep) for section in (Curve, Ranks, Training, Costs)]
    return {chart.stem: chart.plot for section in sections for chart in section.figures()}


@pytest.mark.parametrize("stem", ["curve", "ranks", "growth", "losses", "cost"])
def test_every_value_of_the_menus_gives_a_valid_specification(plots, stem):
    vl_convert = pytest.importorskip("vl_convert", reason=NEEDS)
    plot = plots[stem]
    for state in states(plot):
        vega = vl_convert.vegalite_to_vega(resolved(json.loads(plot.json)["spec"], state))
        assert vega["marks"]
    known = {control.name for control in plot.controls}
    assert {parameter["name"] for parameter in plot.spec["params"]} <= known


def test_the_script_of_the_page_is_the_bundle_of_the_pinned_package():
    vl_convert = pytest.importorskip("vl_convert", reason=NEEDS)
    web = resources("adapad_ray.report") / "web"
    assert (web / "vega.min.js").read_text() == vl_convert.javascript_bundle()
    versions = f"Vega {vl_convert.get_vega_version()}"
    assert versions in (web / "vega.LICENSE.txt").read_text()


def test_placeholders_stand_for_the_values_of_controls():
    spec = {"a": value_of("x"), "b": [by_choice("x", {"1": {"c": value_of("y")}, "2": None})], "n": columns_of(100)}
    assert resolved(spec, {"x": "1", "y": ["p"]}) == {"a": "1", "b": [{"c": ["p"]}], "n": 3}


def test_data_are_columns_with_nothing_for_missing_values_and_cannot_end_their_element():
    table = pd.DataFrame({"x": [0.123456789, float("nan")], "n": pd.array([1, None], "Int64"), "s": ["</script>", "&"]})
    text = Plot({"mark": "point"}, {"t": table}, [], "c").json
    assert "<" not in text and "&" not in text
    assert json.loads(text)["data"]["t"] == {"x": [0.123457, None], "n": [1, None], "s": ["</script>", "&"]}
