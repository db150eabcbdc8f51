"""Figures: module paths are parsed, ranks end up where they belong, files are deterministic."""

import numpy as np
import pytest

from adapad_ray.report.curves import Curves
from adapad_ray.report.figures import curve_figure, growth_figure, module_place, rank_figure, save_figure
from adapad_ray.report.recommendation import recommend
from adapad_ray.report.records import load_results
from tests.report.factory import MODULES, SweepFactory


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("bert.encoder.layer.3.attention.self.query", (3, "attention.self.query")),
        ("model.layers.11.mlp.up_proj", (11, "mlp.up_proj")),
        ("transformer.h.0.attn.c_attn", (0, "attn.c_attn")),
        ("0.linear", (0, "linear")),
        ("pooler.dense", (None, "pooler.dense")),
    ],
)
def test_layer_and_type_of_a_module(path, place):
    assert module_place(path) == place


def test_the_curve_is_drawn_the_same_way_twice(tmp_path):
    factory = SweepFactory(tmp_path / "sweep")
    factory.sweep(seeds=2)
    curves = Curves(load_results(factory.folder), factory.folder, draws=100)
    files = []
    for index in range(2):
        figure = curve_figure(curves.table(), recommend(curves, delta=0.05), metric="accuracy", title="a & b <c>")
        files.append(save_figure(figure, tmp_path / f"curve{index}"))
    assert files[0][1].read_bytes() == files[1][1].read_bytes()
    assert files[0][0].read_bytes()[:4] == b"\x89PNG"
    assert not list(tmp_path.glob(".*"))


def test_full_fine_tuning_is_a_line_and_does_not_stretch_the_axis(tmp_path):
    factory = SweepFactory(tmp_path)
    for seed in range(2):
        factory.cell("full", None, seed, 0.9, parameters=22_713_216, ranks={})
        factory.cell("lora", 41_472, seed, 0.8)
        factory.cell("lora", 82_944, seed, 0.85)
    curves = Curves(load_results(factory.folder), factory.folder, draws=50)
    table = curves.table()
    assert set(table[table["label"] == "full"]["parameters"]) == {22_713_216}
    (axes,) = curve_figure(table, recommend(curves)).axes
    assert axes.get_xlim()[1] < 1e6
    assert "full (22.7M parameters)" in {text.get_text() for text in axes.texts}
    panels = [axes.get_title("left") for axes in rank_figure(curves.results).axes]
    assert {panel for panel in panels if panel} == {"lora · 41,472", "lora · 82,944"}


def test_ranks_are_means_over_seeds_and_absent_modules_are_zero(tmp_path):
    factory = SweepFactory(tmp_path)
    results = [
        factory.cell("adapad", 10_368, 0, 0.8, ranks={MODULES[0]: 4}),
        factory.cell("adapad", 10_368, 1, 0.8, ranks={MODULES[0]: 1}),
    ]
    (axes,) = [axes for axes in rank_figure(results).axes if axes.images]
    ranks = np.asarray(axes.images[0].get_array())
    assert ranks.shape == (6, 6) and ranks[0, 0] == 2.5 and ranks.sum() == 2.5
    assert axes.get_title("left") == "adapad · 10,368"


def test_growth_is_drawn_for_methods_that_grow(tmp_path):
    factory = SweepFactory(tmp_path)
    assert growth_figure([factory.cell("lora", 41_472, 0, 0.8)]) is None
    assert growth_figure([factory.cell("adapad", 41_472, 0, 0.8)]) is not None


def test_a_sweep_without_adapters_still_has_figures(tmp_path):
    factory = SweepFactory(tmp_path)
    factory.cell("head_only", None, 0, 0.7)
    curves = Curves(load_results(factory.folder), factory.folder, draws=50)
    save_figure(curve_figure(curves.table()), tmp_path / "curve")
    save_figure(rank_figure(curves.results), tmp_path / "ranks")
