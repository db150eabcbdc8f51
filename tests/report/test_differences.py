"""Differences between methods: what is claimed, in which words, and what it takes to detect the rest."""

import re
from dataclasses import replace

import pytest

from adapad_ray.report.curves import Curves
from adapad_ray.report.differences import areas, conclusions, label_differences, ranks
from adapad_ray.report.records import load_results
from adapad_ray.report.statistics import Estimate
from tests.report.factory import SweepFactory


@pytest.fixture
def factory(tmp_path):
    return SweepFactory(tmp_path / "sweep", items=2000)


def differences(factory, **settings):
    return label_differences(Curves(load_results(factory.folder), factory.folder, draws=500), **settings)


def crossing(factory, seeds=5):
    """adapad is better with few parameters, lora with many, lora/qv like lora throughout."""
    for seed in range(seeds):
        wobble = 0.002 * (seed % 3)
        for budget, gain in ((10_368, 0.08), (41_472, 0.0), (165_888, -0.08)):
            factory.cell("lora", budget, seed, 0.75 + wobble)
            factory.cell("lora/qv", budget, seed, 0.75 + wobble)
            factory.cell("adapad", budget, seed, 0.75 + gain)


def test_a_sentence_claims_a_difference_or_not_and_names_its_cost(factory):
    for seed in range(3):
        factory.cell("lora", 41_472, seed, 0.75)
        factory.cell("lora/qv", 41_472, seed, 0.75, flops=1e12)
        factory.cell("adapad", 41_472, seed, 0.95, parameters=40_320, flops=6e12)
    sentences = [difference.sentence for difference in differences(factory)]
    assert len(sentences) == 3
    assert any(s.startswith("lora and lora/qv are not distinguishable at 41,472 with 3 seeds (diff") for s in sentences)
    better = next(s for s in sentences if s.startswith("adapad is better than lora at 41,472"))
    assert "deployed 40,320" in better and "adapad spent 2.0 times the training FLOPs of lora" in better


def test_an_insignificant_difference_comes_with_the_seeds_that_would_detect_it(factory):
    for seed in range(4):
        factory.cell("lora", 41_472, seed, 0.75 + 0.01 * seed)
        factory.cell("adapad", 41_472, seed, 0.77 - 0.01 * seed)
    (found,) = differences(factory, margin=0.04)
    assert found.winner is None
    seeds = re.findall(r"(\d+) seeds would detect a difference of ([0-9.]+) point", found.sentence)
    assert float(seeds[-1][1]) == 4 and int(seeds[-1][0]) == found.seeds_needed(0.04) > 4
    (tiny,) = differences(factory, margin=0.001)
    assert tiny.sentence.endswith(
        "with 2,000 test items no number of seeds would detect 0.1 points (at least 3,688 items are needed)"
    )
    numbers = replace(tiny, estimate=replace(tiny.estimate, right_or_wrong=False))
    assert numbers.sentence.endswith("detecting 0.1 points would take more than 1,000 seeds")
    few_items = replace(found, estimate=Estimate(0.002, of_seeds=1e-6, of_items=1e-4, seeds=4, items=2000, freedom=3))
    assert few_items.sentence.endswith(
        "these 4 seeds would detect a difference of 4 points; with 2,000 test items no number of seeds would detect "
        "0.2 points (at least 392,828 items are needed)"
    )


def test_one_seed_compares_two_models_and_not_methods(factory):
    factory.cell("lora", 41_472, 0, 0.65)
    factory.cell("adapad", 41_472, 0, 0.95)
    (found,) = differences(factory)
    assert found.winner is None
    assert "cannot be compared as methods at 41,472 with 1 seed; between the two models: diff" in found.sentence
    assert conclusions([found]) == ["1 comparison has one seed and compares two trained models, not two methods."]


def test_all_comparisons_are_one_family(factory):
    crossing(factory)
    found = differences(factory)
    assert len(found) == 3 * 3 + 3 and {difference.family for difference in found} == {12}
    smallest = min(found, key=lambda difference: difference.estimate.p_value)
    assert smallest.p_adjusted == pytest.approx(12 * smallest.estimate.p_value)


def test_crossing_curves_are_called_crossing(factory):
    crossing(factory)
    sentences = conclusions(differences(factory))
    assert "The curves of adapad and lora cross: adapad is better at 10,368 and lora is better at 165,888." in sentences
    assert sentences[0].startswith(
        "Of 12 comparisons (equal budgets, and areas under the curves), 5 show a difference."
    )
    assert "does not mean that the methods are equal" in sentences[-1]
    assert "seeds would detect a difference of 1 point" in sentences[-1]


def test_labels_that_are_not_distinguishable_tie(factory):
    crossing(factory)
    found = ranks(differences(factory))
    assert found[10_368] == {"adapad": (1, 1), "lora": (2, 3), "lora/qv": (2, 3)}
    assert found[165_888] == {"adapad": (3, 3), "lora": (1, 2), "lora/qv": (1, 2)}
    assert set(found[None].values()) == {(1, 3)}


def test_areas_share_one_range(factory):
    for seed in range(4):
        for budget, accuracy in ((41_472, 0.70), (82_944, 0.80), (165_888, 0.801)):
            factory.cell("lora", budget, seed, accuracy + 0.001 * seed)
        for budget in (20_736, 82_944):
            factory.cell("adapad", budget, seed, 0.8)
    curves = Curves(load_results(factory.folder), factory.folder, draws=500)
    found = {area.label: area for area in areas(curves)}
    assert found["lora"].range == found["adapad"].range == (41_472, 82_944)
    assert found["adapad"].value == pytest.approx(0.8, abs=0.03)
    assert found["lora"].low <= found["lora"].value <= found["lora"].high
    over = label_differences(curves)[-1]
    assert over.where == "over 41,472 to 82,944" and over.winner == "adapad"
    assert over.estimate.mean == pytest.approx(found["adapad"].value - found["lora"].value)
