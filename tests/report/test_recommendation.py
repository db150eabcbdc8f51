"""The recommendation: the smallest non-inferior point on validation; the test split has no influence."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from adapad_ray.errors import BadRequestError
from adapad_ray.report.curves import Curves
from adapad_ray.report.differences import areas, label_differences
from adapad_ray.report.recommendation import recommend
from adapad_ray.report.records import load_results
from adapad_ray.sweep.export import choice_of
from adapad_ray.tasks import SplitSize
from tests.report.factory import RANK_ONE, SweepFactory


@pytest.fixture
def factory(tmp_path):
    return SweepFactory(tmp_path / "sweep", items=2000)


def curves(factory):
    return Curves(load_results(factory.folder), factory.folder, draws=500)


def saturating(factory):
    for seed in range(4):
        factory.cell("lora", 41_472, seed, 0.70)
        factory.cell("lora", 82_944, seed, 0.80 + 0.001 * seed)
        factory.cell("lora", 165_888, seed, 0.801 + 0.001 * seed)


def test_the_smallest_adapter_that_is_not_worse(factory):
    saturating(factory)
    choice = recommend(curves(factory), delta=0.02)
    assert (choice.label, choice.budget, choice.kind) == ("lora", 82_944, "final")
    assert choice.lower_bound > -0.02
    assert "Deploy lora at 82,944 (82,944 adapter parameters)" in choice.sentence


def test_a_margin_below_the_noise_keeps_the_best_point_and_names_the_choice_by_means(factory):
    saturating(factory)
    choice = recommend(curves(factory), delta=1e-5)
    assert choice.budget == choice.best.budget and "no smaller adapter is shown" in choice.sentence
    loose = recommend(curves(factory), delta=0.2)
    assert loose.budget == 41_472 and loose.by_means_alone.budget == 41_472


def test_a_prefix_can_be_recommended(factory):
    for seed in range(3):
        factory.cell("adapad", 165_888, seed, 0.8, prefixes={2: 0.8, 1: 0.6})
    choice = recommend(curves(factory), delta=0.03)
    assert (choice.kind, choice.prefix, choice.parameters) == ("prefix", 2, 2 * 36 * RANK_ONE)
    assert "adapad at 165,888 cut to 2 components" in choice.sentence


@pytest.mark.parametrize(
    ("head", "name"), [(770, "the frozen backbone with a trained head"), (0, "the frozen backbone")]
)
def test_the_frozen_backbone_is_recommended_where_adapters_add_nothing(factory, head, name):
    for seed in range(3):
        factory.cell("head_only", None, seed, 0.80, head_parameters=head)
        factory.cell("lora", 41_472, seed, 0.80, head_parameters=head)
    choice = recommend(curves(factory), delta=0.03)
    assert choice.label == "head_only" and choice.parameters == 0
    shown = f"{name} ({head} parameters)" if head else name
    assert choice.sentence.startswith(f"No adapter is needed: {shown} is a reference without one")
    assert "Deploy" not in choice.sentence and choice.adapter is choice.command is None
    assert "smallest adapter that is as good by this rule is lora at 41,472" in choice.sentence


def test_full_fine_tuning_is_neither_recommended_nor_compared_at_equal_budget(factory):
    for seed in range(3):
        factory.cell("full", None, seed, 0.95, parameters=22_713_216, ranks={})
        for budget in (41_472, 82_944):
            factory.cell("lora", budget, seed, 0.80)
    found = curves(factory)
    choice = recommend(found)
    assert choice.label == choice.best.label == choice.by_means_alone.label == "lora"
    assert label_differences(found) == [] and [area.label for area in areas(found)] == ["lora"]


def test_a_point_with_missing_seeds_is_no_candidate(factory):
    saturating(factory)
    factory.cell("lora", 10_368, 0, 0.95)
    assert recommend(curves(factory), delta=0.02).budget == 82_944


def test_the_test_split_never_influences_the_choice(factory):
    saturating(factory)
    factory.cell("aslo", 20_736, 0, 0.7)
    chosen = recommend(curves(factory), delta=0.02)
    generator = np.random.default_rng(0)
    for path in factory.folder.glob("cells/*/predictions.safetensors"):
        tensors = load_file(path)
        record = path.with_name("result.json")
        value = json.loads(record.read_text())
        accuracy = 1.0 if value["identity"]["budget"] == 41_472 else 0.5
        true = tensors["test/labels"][:777]
        right = generator.random(len(true)) < accuracy
        tensors["test/labels"] = true
        tensors["test/final"] = np.eye(2, dtype=np.float32)[np.where(right, true, 1 - true)]
        value["points"][0]["test"] = {"accuracy": float(right.mean())}
        record.write_text(json.dumps(value))
        save_file(tensors, path)
    again = recommend(curves(factory), delta=0.02)
    assert again.test_mean != chosen.test_mean
    ignored = {"test_mean", "test_low", "test_high", "sentence", "next_step"}
    others = ("best", "by_means_alone", "smallest_adapter")
    assert again.model_dump(exclude=ignored | {*others}) == chosen.model_dump(exclude=ignored | {*others})
    assert all(getattr(again, name).point == getattr(chosen, name).point for name in others)


@pytest.mark.parametrize(
    ("points", "which"),
    [
        ([("lora", 41_472), ("adapad", 41_472)], "one of them"),
        ([("lora", 41_472), ("adapad", 41_472), ("lora", 82_944)], "one of the smallest of them"),
    ],
)
def test_no_model_is_called_the_smallest_where_another_has_its_size(tmp_path, points, which):
    factory = SweepFactory(tmp_path / "sweep", items=31)
    for seed in range(3):
        for label, budget in points:
            factory.cell(label, budget, seed, 1.2, adapter=True)
    assert f"Deploy {which}, " in recommend(curves(factory)).sentence


def test_equal_models_are_called_ties_and_their_number_of_items_is_said_to_be_too_small(tmp_path):
    factory = SweepFactory(tmp_path / "sweep", items=31)
    for seed in range(3):
        for budget in (41_472, 82_944, 165_888):
            factory.cell("lora", budget, seed, 1.2, adapter=True)
    choice = recommend(curves(factory))
    assert choice.tied == 3 and choice.budget == 41_472 and choice.test_mean == 1.0
    assert choice.sentence.startswith(
        "Three models share the best validation accuracy (1.000; one of 31 items is 3.2 points). "
        "Deploy the smallest of them, lora at 41,472"
    )
    assert choice.next_step == (
        "Next: more validation items. 31 items cannot show that two models differ by less than 1 point; that takes at "
        "least 299."
    )


@pytest.mark.parametrize(
    ("size", "where"),
    [
        (SplitSize(31, available=400), "There are 400: raise training.max_validation_examples."),
        (SplitSize(31, available=298), "There are only 298: a larger delta would tell with fewer."),
        (
            SplitSize(31, available=31, carved=True),
            "There are only 31: take a larger share of the data (task.shares), or a larger delta.",
        ),
    ],
)
def test_advice_names_no_items_that_do_not_exist(tmp_path, size, where):
    factory = SweepFactory(tmp_path / "sweep", items=31)
    for seed in range(3):
        factory.cell("lora", 41_472, seed, 1.2)
    choice = recommend(curves(factory), splits={"validation": size})
    assert choice.next_step.endswith(f"that takes at least 299. {where}")


def test_where_no_adapter_has_finished_none_is_called_needless(factory):
    for seed in range(3):
        factory.cell("head_only", None, seed, 0.7)
    choice = recommend(curves(factory))
    assert choice.sentence.startswith("No adapter has finished with every seed: there is nothing to deploy")
    assert "failed cells" in choice.next_step
    with pytest.raises(BadRequestError, match="no adapter of the sweep has finished"):
        choice_of(choice)


def test_no_error_among_few_items_is_no_certainty(tmp_path):
    """Clopper and Pearson's interval for 31 of 31 begins at 0.888."""
    factory = SweepFactory(tmp_path / "sweep", items=31)
    factory.cell("lora", 41_472, 0, 1.2)
    choice = recommend(curves(factory))
    assert (choice.test_low, choice.test_high) == (pytest.approx(0.025 ** (1 / 31)), 1.0)


def test_models_that_agree_on_all_of_few_items_are_not_shown_to_be_equal(tmp_path):
    factory = SweepFactory(tmp_path / "sweep", items=200)
    for seed in range(3):
        factory.cell("lora", 41_472, seed, 1.2)
        factory.cell("lora", 82_944, seed, 1.2)
    found = curves(factory)
    small, large = found.validation.values()
    assert small.minus(large).estimate.lower_bound() == pytest.approx(0.05 ** (1 / 200) - 1)


def test_the_adapter_and_the_command_that_exports_it_are_named(factory):
    for seed, accuracy in enumerate((0.79, 0.81, 0.80)):
        factory.cell("adapad/x y", 165_888, seed, accuracy, adapter=True)
    choice = recommend(curves(factory))
    assert choice.seed == 1 and (factory.folder / choice.adapter).is_dir()
    assert choice.command == ("adapad export . --method 'adapad/x y' --budget 165888 --seed 1 --to adapad-x-y-165888")


def test_one_seed_asks_for_more_of_them(factory):
    factory.cell("lora", 41_472, 0, 0.8)
    assert recommend(curves(factory)).next_step.startswith("Next: three or more seeds.")


def test_the_seeds_that_would_tell_are_named(factory):
    for seed, accuracy in enumerate((0.73, 0.80, 0.86, 0.79)):
        factory.cell("lora", 41_472, seed, accuracy)
        factory.cell("lora", 82_944, seed, 0.80)
    choice = recommend(curves(factory), delta=0.02)
    assert choice.by_means_alone.budget == 41_472 and choice.budget == 82_944
    assert re.fullmatch(
        r"Next: \d+ seeds instead of 4 would probably tell whether lora at 41,472 suffices.", choice.next_step
    )


def test_a_margin_of_zero_is_rejected(factory):
    saturating(factory)
    with pytest.raises(BadRequestError, match="delta 0"):
        recommend(curves(factory), delta=0)
