"""Data of the charts of growth and losses."""

from adapad_ray.report.plots.training import growth_plot, lane_losses
from tests.report.factory import RANK_ONE, SweepFactory


def test_growth_has_one_value_per_step_and_the_last_at_the_end(tmp_path):
    cell = SweepFactory(tmp_path).cell("adapad", 41_472, 3, 0.8)
    (row,) = growth_plot([cell]).data["growth"].to_dict("records")
    assert row["step"] == [0, 10, 20, 30, 40, 100]
    assert row["spent"] == [RANK_ONE * count for count in (1, 2, 3, 4, 5, 5)]
    assert (row["label"], row["budget"], row["seed"]) == ("adapad", 41_472, 3)


def test_losses_are_read_per_lane_and_cells_without_rounds_are_left_out(tmp_path):
    factory = SweepFactory(tmp_path)
    cells = [factory.cell("lora", 41_472, 0, 0.8), factory.cell("adapad", 41_472, 0, 0.8)]
    factory.rounds(cells[1], {1: [0.7, 0.6, 0.5], 2: [0.6, 0.4, 0.3]})
    losses = lane_losses(cells, tmp_path)
    assert losses.to_dict("records") == [
        {"training": "adapad at 41,472", "seed": 0, "lane": "1", "step": [10, 20, 30], "loss": [0.7, 0.6, 0.5]},
        {"training": "adapad at 41,472", "seed": 0, "lane": "2", "step": [10, 20, 30], "loss": [0.6, 0.4, 0.3]},
    ]


def test_losses_of_many_rounds_are_means_of_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr("adapad_ray.report.plots.training._VALUES", 12)
    factory = SweepFactory(tmp_path)
    cell = factory.cell("lora", 41_472, 0, 0.8)
    factory.rounds(cell, {1: [1.0, 3.0] * 12})
    (row,) = lane_losses([cell], tmp_path).to_dict("records")
    assert row["loss"] == [2.0] * 12 and row["step"] == [20 * k for k in range(1, 13)]
