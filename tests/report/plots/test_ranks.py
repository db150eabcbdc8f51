"""Data of the heat map of ranks."""

import pytest

from adapad_ray.report.plots.ranks import rank_maps, ranks_plot
from tests.report.factory import MODULES, SweepFactory


def test_the_heat_map_has_the_rank_of_every_module_on_one_scale(tmp_path):
    factory = SweepFactory(tmp_path)
    cells = [
        factory.cell("adapad", 10_368, 0, 0.8, ranks={MODULES[0]: 4}),
        factory.cell("adapad", 10_368, 1, 0.8, ranks={MODULES[0]: 1}),
        factory.cell("lora", 41_472, 0, 0.8, ranks=dict.fromkeys(MODULES, 3)),
    ]
    plot = ranks_plot(rank_maps(cells))
    modules = plot.data["modules"].set_index("module")
    first, second = plot.data["ranks"].to_dict("records")
    ranks = {
        tuple(modules.loc[index]): rank for index, rank in zip(first["module"], first["rank"], strict=True) if rank
    }
    assert ranks == {("attention.self.query", "0"): 2.5}
    assert len(second["rank"]) == len(MODULES) and set(second["rank"]) == {3.0}
    colour = plot.spec["spec"]["layer"][0]["encoding"]["color"]
    assert colour["scale"]["domain"] == [0, pytest.approx(3)]


def test_the_menu_offers_every_method_and_every_budget(tmp_path):
    factory = SweepFactory(tmp_path)
    cells = [factory.cell(label, 41_472, 0, 0.8) for label in ("adapad", "lora")]
    (menu,) = ranks_plot(rank_maps(cells)).controls
    assert list(menu.options) == ["label adapad", "label lora", "budget 41472"]
    (menu,) = ranks_plot(rank_maps(cells[:1])).controls
    assert list(menu.options) == ["label adapad"]
