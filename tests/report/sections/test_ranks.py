"""The maps of ranks: module paths are parsed, and ranks are drawn in the right cell."""

import numpy as np
import pytest

from adapad_ray.report.plots.ranks import layer_and_type, rank_maps
from adapad_ray.report.sections.ranks import rank_figure
from tests.report.factory import MODULES, SweepFactory


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("bert.encoder.layer.3.attention.self.query", (3, "attention.self.query")),
        ("model.layers.11.mlp.up_proj", (11, "mlp.up_proj")),
        ("transformer.h.0.attn.c_attn", (0, "attn.c_attn")),
        ("0.linear", (0, "linear")),
        ("pooler.dense", (None, "pooler.dense")),
    ],
)
def test_layer_and_type_of_a_module(path, expected):
    assert layer_and_type(path) == expected


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


def test_each_label_starts_a_row_and_methods_without_budget_have_no_panel(tmp_path):
    factory = SweepFactory(tmp_path)
    results = [
        factory.cell("full", None, 0, 0.9, parameters=22_713_216, ranks={}),
        factory.cell("adapad", 41_472, 0, 0.8),
        factory.cell("lora", 41_472, 0, 0.8),
        factory.cell("lora", 82_944, 0, 0.85),
    ]
    panels = [axes.get_title("left") for axes in rank_figure(results).axes]
    assert panels == ["adapad · 41,472", "", "lora · 41,472", "lora · 82,944"]


def test_a_sweep_without_adapters_has_a_figure_that_says_so(tmp_path):
    results = [SweepFactory(tmp_path).cell("head_only", None, 0, 0.7)]
    assert rank_maps(results) == []
    figure = rank_figure(results)
    assert [text.get_text() for text in figure.texts] == ["no adapted modules"] and not figure.axes
