"""Records of finished cells are loaded in order, filtered and relabelled, and damage is reported."""

import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.report.records import load_predictions, load_results
from tests.report.factory import SweepFactory


@pytest.fixture
def factory(tmp_path):
    return SweepFactory(tmp_path / "sweep")


def test_cells_are_filtered_and_relabelled(factory):
    first, _ = (factory.cell("lora", 41_472, seed, 0.8) for seed in range(2))
    assert load_results(factory.folder, {first.id: "lora"}) == [first]
    (renamed,) = load_results(factory.folder, {first.id: "lora/new"})
    assert renamed.identity.label == "lora/new"


def test_a_folder_without_cells_is_rejected(factory):
    with pytest.raises(BadRequestError, match="no finished cell"):
        load_results(factory.folder)


def test_a_damaged_record_is_named(factory):
    result = factory.cell("lora", 41_472, 0, 0.8)
    path = factory.folder / "cells" / result.id / "result.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(BadRequestError, match=rf"{result.id}/result.json is not a readable cell record"):
        load_results(factory.folder)


def test_damaged_predictions_are_named(factory):
    result = factory.cell("lora", 41_472, 0, 0.8)
    path = factory.folder / "cells" / result.id / "predictions.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadRequestError, match=rf"{result.id}/predictions.safetensors is not readable"):
        load_predictions(factory.folder, result.id)
