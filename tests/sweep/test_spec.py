"""A sweep's file: defaults, numbers, overrides, and one sentence for every mistake."""

from __future__ import annotations

import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.sweep.spec_file import load_spec, parse_spec

GOOD = {
    "name": "s",
    "model": "m",
    "task": "rotten-tomatoes",
    "methods": {"lora": {}, "adapad/exact": {"local_steps": 2}},
    "budgets": ["40k"],
}


def test_a_file_with_the_four_needed_fields_has_defaults_for_the_rest(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("model: m\ntask: rotten-tomatoes\nmethods: {lora: }\nbudgets: [40k]\n")
    spec = load_spec(path)
    assert spec.name == "mine"
    assert spec.seeds == [0, 1, 2]
    assert spec.labels() == ["head_only", "lora"]
    assert spec.method_settings("lora")["lora_alpha"] == 2.0


def test_numbers_without_a_point_are_numbers(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "model: m\ntask: t/t\nmethods: {lora: {}}\nbudgets: [1]\ntraining: {learning_rate: 2e-3}\n"
        "tune: {budget: 1, space: {learning_rate: {log: [1e-4, 1e-2]}}}\n"
    )
    spec = load_spec(path)
    assert spec.training.learning_rate == 0.002
    assert spec.tune is not None
    assert spec.tune.space["learning_rate"]["log"] == [1e-4, 1e-2]


def test_overrides_win_and_reach_into_mappings(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("model: m\ntask: t/t\nmethods: {lora: {}}\nbudgets: [1]\n")
    spec = load_spec(path, ["training.epochs=2", "seeds=[7, 8]", "methods.lora.rank=3"])
    assert (spec.training.epochs, spec.seeds, spec.method_settings("lora")["rank"]) == (2.0, [7, 8], 3)


def test_a_label_has_its_own_modules_and_training():
    spec = parse_spec(
        {**GOOD, "methods": {"lora/qv": {"target_modules": ["query"], "training": {"epochs": 9}}, "lora": {}}}
    )
    assert spec.modules_of("lora/qv") == ["query"]
    assert spec.modules_of("lora") == "all-linear"
    assert spec.training_settings("lora/qv").epochs == 9
    assert spec.training_settings("lora").epochs == spec.training.epochs


def test_a_tuned_point_reaches_training_and_method():
    spec = parse_spec(GOOD)
    point = {"learning_rate": 0.5, "growth_threshold": 2.0}
    assert spec.training_settings("lora", point).learning_rate == 0.5
    assert spec.method_settings("adapad/exact", point)["growth_threshold"] == 2.0
    assert "growth_threshold" not in spec.method_settings("lora", point)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modle": "m"}, ["modle", "did you mean model"]),
        ({"methods": {"lroa": {}}}, ["'lroa'", "did you mean lora"]),
        ({"methods": {"adapad": {"growth_treshold": 1}}}, ["growth_treshold", "did you mean growth_threshold"]),
        ({"methods": {"lora": {"training": {"epoch": 1}}}}, ["epoch", "did you mean epochs"]),
        ({"methods": {"lora/": {}}}, ["'lora/'"]),
        ({"methods": {}}, ["methods"]),
        ({"budgets": []}, ["budgets"]),
        ({"seeds": [1, 1]}, ["seeds", "differ"]),
        ({"training": {"epochs": -1}}, ["training.epochs", "-1", "greater than 0"]),
        ({"training": {"learning_rate": "fast"}}, ["training.learning_rate", "'fast'"]),
        ({"tune": {"budget": 1, "space": {"learning_rate": {"logs": [1, 2]}}}}, ["logs", "log"]),
        ({"tune": {"budget": 1, "space": {"learning_rat": {"log": [1, 2]}}}}, ["learning_rat"]),
        ({"resources": {"worker": 2}}, ["resources.worker", "did you mean workers"]),
        ({"methods": {"adapad": {"initial_rank": 0, "advance_learning": False}}}, ["initial_rank 0"]),
        ({"methods": {"lora": {"training": 5}}}, ["methods.lora.training", "5"]),
        ({"methods": {"lora": {"budgets": {"a": 1}}}}, ["methods.lora.budgets", "list"]),
        ({"methods": {"lora": {"budgets": 41_000}}}, ["methods.lora.budgets", "41000", "40k"]),
        ({"methods": {"lora": {"budgets": [7]}}}, ["methods.lora.budgets", "7", "40k"]),
        ({"methods": {"lora": {"compute_as": []}}}, ["methods.lora.compute_as"]),
        ({"methods": {"lora": {"compute_as": "nobody"}}}, ["compute_as", "'nobody'"]),
        ({"methods": {"lora": {}, "full": {"compute_as": "lora"}}}, ["methods.full.compute_as", "budgets"]),
        ({"methods": {"lora": {"training": {"max_length": 7}}}}, ["methods.lora.training.max_length"]),
        ({"tune": {"budget": 1, "space": {"rank": {"int": [1, 4]}}}}, ["tune.space.rank"]),
        ({"tune": {"budget": 1, "space": {"max_length": {"choice": [8]}}}}, ["tune.space.max_length"]),
        ({"resources": {"workers": 0}}, ["resources.workers is 0"]),
        ({"name": "../up"}, ["name", "'../up'"]),
        ({"task": {"train": "a.csv", "texts": "t"}}, ["texts"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_gets_one_sentence(change, words):
    with pytest.raises(BadRequestError) as caught:
        parse_spec({**GOOD, **change})
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_field_is_named():
    with pytest.raises(BadRequestError, match="model is missing"):
        parse_spec({key: value for key, value in GOOD.items() if key != "model"})


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [1\n", "!!python/object/apply:os.system ['true']\n"])
def test_a_file_that_is_not_a_mapping_is_rejected(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(BadRequestError, match="sweep file"):
        load_spec(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadRequestError, match=r"none\.yaml cannot be read"):
        load_spec(tmp_path / "none.yaml")
