"""Hints about names: the same in another notation, a synonym, a slip, or a place elsewhere in the file."""

from __future__ import annotations

import pytest

from adapad_ray.methods import METHODS
from adapad_ray.search.settings import SearchStage, TuneStage
from adapad_ray.spelling import SYNONYMS, closest, meant, nearest
from adapad_ray.sweep.spec import MethodEntry, Resources, SweepSpec
from adapad_ray.tasks.registry import TYPES
from adapad_ray.training.settings import TrainingSettings

TRAINING = list(TrainingSettings.model_fields)
LORA = list(METHODS["lora"].Config.model_fields)


@pytest.mark.parametrize(
    ("written", "known", "expected"),
    [
        ("lroa", ["lora", "adalora"], "lora"),
        ("LoRA", METHODS, "lora"),
        ("macro_f1", ["accuracy_f1", "f1", "f1_macro"], "f1_macro"),
        ("modle", ["mode", "model"], "model"),
        ("worker", ["workers", "cpus_per_worker", "gpus_per_worker"], "workers"),
        ("text_column", ["text", "text_pair", "label"], "text"),
        ("batch", TRAINING, "batch_size"),
        ("learningRate", TRAINING, "learning_rate"),
        ("learning-rate", TRAINING, "learning_rate"),
        ("lr", TRAINING, "learning_rate"),
        ("num_train_epochs", TRAINING, "epochs"),
        ("per_device_train_batch_size", TRAINING, "batch_size"),
        ("max_seq_length", TRAINING, "max_length"),
        ("warmup_ratio", TRAINING, "warmup_fraction"),
        ("r", LORA, "rank"),
        ("alpha", LORA, "lora_alpha"),
        ("lora_dropout", LORA, "dropout"),
        ("loguniform", ["log", "uniform", "int", "choice"], "log"),
        ("bf16", ["float32", "bfloat16", "float16"], "bfloat16"),
        ("xyz", ["lora"], None),
        ("", ["lora"], None),
    ],
)
def test_the_closest_name(written, known, expected):
    assert closest(written, known) == expected


def test_a_place_elsewhere_comes_before_a_similar_name_and_after_the_same_name():
    elsewhere = {"epochs": "training.epochs", "rank": "methods.lora.rank", "seeds": "seeds"}
    assert nearest("epochs", ["search", "methods"], elsewhere) == "did you mean training.epochs?"
    assert nearest("r", ["search", "methods"], elsewhere) == "did you mean methods.lora.rank?"
    assert nearest("epoch", ["search"], elsewhere) == "did you mean training.epochs?"
    assert nearest("Epochs", ["epochs"], elsewhere) == "did you mean epochs?"
    assert nearest("xyz", ["lora", "full"], elsewhere) == "known are full, lora"


def test_every_synonym_leads_to_a_name_of_the_sweep_s_file():
    models = [SweepSpec, MethodEntry, Resources, TrainingSettings, TuneStage, SearchStage]
    models += [method.Config for method in METHODS.values()] + [kind.Source for kind in TYPES.values()]
    names = {name for model in models for name in model.model_fields} | set(METHODS)
    values = {"log", "uniform", "int", "choice", "float32", "float16", "bfloat16", "float64"}
    assert {target for targets in SYNONYMS.values() for target in targets} <= names | values
    assert all(meant(name, [name]) == name for name in names)
