"""`train`: one adapter on a model object and a table, as a cell of a sweep trains it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import peft
import pytest
import torch
import transformers
from api_models import bert
from datasets import ClassLabel, Dataset, DatasetDict
from safetensors.torch import load_file

import adapad_ray as ar
from adapad_ray.accelerator import cpu_threads
from adapad_ray.deployment.prediction import load_exported
from adapad_ray.errors import BadRequestError
from adapad_ray.sweep.inputs import load_inputs
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.spec_file import parse_spec
from adapad_ray.tasks import encode, load_task
from adapad_ray.training.cell import CellRequest, Workspace, run_cell

RANK_1 = 896
FAST = {"epochs": 2, "max_length": 32, "learning_rate": 5e-3}


@pytest.fixture
def trained(model, tokenizer, frame):
    return ar.train(model, tokenizer, frame, budget=2 * RANK_1, **FAST)


def test_an_adapter_of_the_budget_is_trained_evaluated_and_written(trained):
    assert trained.parameters <= 2 * RANK_1 and trained.parameters > RANK_1
    weights = load_file(trained.adapter / "adapter_model.safetensors")
    assert sum(t.numel() for name, t in weights.items() if ".lora_" in name) == trained.parameters
    assert trained.metrics["validation"].keys() == trained.metrics["test"].keys() >= {"accuracy"}
    assert sum(trained.ranks.values()) > 0 and trained.points["parameters"].is_monotonic_decreasing


def test_the_model_is_given_back_as_it_was(model, tokenizer, frame):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    names = [name for name, _ in model.named_modules()]
    model.train()
    model.bert.embeddings.requires_grad_(False)
    for precision in ("full", "mixed"):
        ar.train(model, tokenizer, frame, "lora", RANK_1, precision=precision, epochs=0.5, max_length=32)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(before[name].equal(after[name]) for name in before)
    assert [name for name, _ in model.named_modules()] == names
    assert all(type(module) is not torch.nn.Linear or module.training for module in model.modules())
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        f"bert.embeddings.{name}" for name, _ in model.bert.embeddings.named_parameters()
    }


def test_the_saved_folder_gives_the_same_predictions_on_the_users_model(trained, model, tokenizer, frame, tmp_path):
    texts = frame["review"][:5].tolist()
    ours, answers = trained.logits(texts), trained.predict(texts)
    loaded = peft.PeftModel.from_pretrained(model.eval(), trained.save(tmp_path / "mine"))
    with torch.no_grad():
        logits = loaded(**tokenizer(texts, return_tensors="pt", padding=True)).logits.numpy()
    assert ours == pytest.approx(logits, abs=1e-5)
    names = trained.data.class_names
    assert answers == [names[i] for i in logits.argmax(axis=1)]
    assert set(names) == {"down", "so-so", "up"}


def test_predict_reads_the_folder_again(trained, model, tokenizer, frame, tmp_path):
    texts = frame["review"][:5].tolist()
    ours, folder = trained.predict(texts), trained.save(tmp_path / "mine")
    assert ar.predict(folder, texts, model=model, tokenizer=tokenizer, max_length=32) == ours


def test_the_saved_folder_is_complete(tiny_model, frame, tmp_path):
    """The command line reads it, and the tokenizer, the names of the classes and a model card are in it."""
    base = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    trained = ar.train(base, tokenizer, frame, "lora", "12 ranks", **FAST)
    folder, texts = trained.save(tmp_path / "mine"), frame["review"][:5].tolist()
    answers = load_exported(folder).predict(pd.DataFrame({"review": texts}))
    assert answers["prediction"].tolist() == trained.predict(texts)
    config = transformers.AutoConfig.from_pretrained(folder)
    assert tuple(config.id2label.values()) == trained.data.class_names
    assert transformers.AutoTokenizer.from_pretrained(folder)(texts[0])["input_ids"]
    assert f"{trained.parameters:,} parameters" in (folder / "README.md").read_text()


def test_what_a_saved_folder_lacks_is_said(trained, tmp_path):
    """This model was never saved, so its class is all that it could be found by."""
    with pytest.warns(UserWarning, match="tokenizer and class names are missing, because the base model"):
        trained.save(tmp_path / "mine")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapad.json"])
def test_predict_names_the_file_that_an_adapter_lacks(name, trained, tmp_path):
    (trained.save(tmp_path / "mine") / name).unlink()
    with pytest.raises(BadRequestError, match=f"holds no adapter of this package: {name} is missing"):
        ar.predict(tmp_path / "mine", ["good"])


def test_a_model_with_an_adapter_on_it_is_rejected(trained, model, tokenizer, frame):
    """Adapters of PEFT change the model in place, so a second one would be trained and used on top of the first."""
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"]))
    for use in (lambda: trained.predict(["good"]), lambda: ar.train(model, tokenizer, frame, "lora", RANK_1)):
        with pytest.raises(BadRequestError, match="the model carries an adapter of PEFT: take it off with unload"):
            use()


def test_a_prefix_is_saved_by_its_number(trained, tmp_path):
    assert 1 in trained.points["prefix"].dropna().astype(int).tolist()
    weights = load_file(trained.save(tmp_path / "one", prefix=1) / "adapter_model.safetensors")
    assert max(t.shape[0] for name, t in weights.items() if "lora_A" in name) == 1
    with pytest.raises(BadRequestError, match="there is no prefix 7: the prefixes are 2, 1"):
        trained.save(tmp_path / "seven", prefix=7)


def test_a_model_by_name_trains_the_cell_of_a_sweep(tiny_model, reviews, tmp_path):
    """The same id, and bitwise the same adapter as the cell that a sweep's file describes."""
    spec = parse_spec(
        {
            "name": "s",
            "model": str(tiny_model),
            "task": {"train": str(reviews), "text": "review", "label": "stars"},
            "methods": {"adapad": {}},
            "budgets": ["12 ranks"],
            "training": FAST,
        }
    )
    loaded = load_inputs(spec)
    cell = CellFactory(spec, loaded.inputs).cell("curve", "adapad", RANK_1, seed=0)
    with cpu_threads(cell.identity.threads):
        sweeps = run_cell(
            CellRequest(cell.id, cell.identity, tmp_path / "sweeps", spec.model),
            Workspace(loaded.recipe.load(), loaded.inputs.data),
        )
    ours = ar.train(
        str(tiny_model),
        dataset=pd.read_csv(reviews),
        budget="12 ranks",
        **FAST,
    )
    assert ours.result.id == cell.id and ours.result.train_loss == sweeps.train_loss
    assert ours.result.final == sweeps.final
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in (ours.adapter, tmp_path / "sweeps/adapter"))
    assert a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def test_the_same_request_in_a_folder_is_computed_once(model, tokenizer, frame, tmp_path):
    def train(seed, on_progress=None):
        return ar.train(
            *(model, tokenizer, frame, "lora", RANK_1), seed=seed, folder=tmp_path, on_progress=on_progress, **FAST
        )

    steps = []
    first, again, other = train(0), train(0, steps.append), train(1)
    assert steps == [] and again.result == first.result and again.folder == first.folder
    assert other.folder != first.folder and other.result.train_loss != first.result.train_loss


def test_a_post_hoc_method_trains_its_parent_first(model, tokenizer, frame, tmp_path):
    cut = ar.train(model, tokenizer, frame, "para", RANK_1, folder=tmp_path, settings={"parent_rank": 4}, **FAST)
    parent = tmp_path / cut.result.identity.parent
    assert cut.parameters <= RANK_1 and (parent / "adapter").is_dir()


def test_a_bare_encoder_gets_a_classifier_on_its_mean_state(tokenizer, frame):
    run = ar.train(bert(2, "BertModel"), tokenizer, frame, "lora", RANK_1, **FAST)
    assert run.backbone.pooling == "mean" and run.backbone.head_modules == ("classifier",)
    assert len(run.predict(["good film", "a bad plot"])) == 2


def test_a_regression_is_found_by_its_fractions(tokenizer, frame):
    values = frame.assign(stars=np.linspace(-1, 1, len(frame)))
    run = ar.train(bert(1), tokenizer, values, "lora", RANK_1, **FAST)
    assert run.data.type == "regression" and "pearson_spearman" in run.metrics["validation"]
    assert all(isinstance(value, float) for value in run.predict(["good film"]))


def test_data_sets_keep_their_splits_and_the_names_of_their_classes(model, tokenizer, frame):
    numbers = frame.assign(stars=frame["stars"].map({"down": 0, "so-so": 1, "up": 2}))
    rows = Dataset.from_pandas(numbers).cast_column("stars", ClassLabel(names=["down", "so-so", "up"]))
    splits = DatasetDict(
        train=rows.select(range(80)), validation=rows.select(range(80, 100)), test=rows.select(range(100, 120))
    )
    run = ar.train(model, tokenizer, splits, "lora", RANK_1, epochs=0.5, max_length=32)
    assert run.data.class_names == ("down", "so-so", "up")
    assert {name: len(split) for name, split in run.data.splits.items()} == {"train": 80, "validation": 20, "test": 20}


def test_rows_in_memory_become_the_task_of_the_same_rows_in_a_file(reviews, frame, tokenizer):
    from adapad_ray.api.data import read_task

    path = reviews.with_name("part.csv")
    frame.to_csv(path, index=False)
    in_file = load_task({"train": str(path), "text": "review", "label": "stars"})
    digests = [encode(raw, tokenizer, max_length=32).digest for raw in (in_file, read_task(frame))]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "adopad"}, "method 'adopad' is unknown: did you mean adapad"),
        ({"budget": None}, "method lora needs a budget, such as 896: one rank on each of 12 modules"),
        ({"budget": 100}, "budget 100 is below one component on each of 12 modules"),
        ({"epoch": 2}, "training.epoch is unknown: did you mean epochs"),
        ({"settings": {"rnak": 2}}, "settings.rnak is unknown: did you mean rank"),
        ({"label": "star"}, "no column 'star' for 'label'"),
        ({"target_modules": ["querry"]}, "did you mean 'query'"),
        ({"max_length": 100}, "max_length is 100"),
        ({"dataset": None}, "there is no dataset"),
        ({"tokenizer": None}, "without its tokenizer"),
        ({"precision": "bf16"}, "precision is 'bf16': input should be 'auto', 'full', 'tf32' or 'mixed'"),
        ({"seed": "a"}, "seed is 'a': input should be a valid integer"),
        ({"threads": 0}, "threads is 0: input should be greater than or equal to 1"),
        ({"settings": 3}, "settings is 3: input should be a mapping, as {name: value}"),
        ({"precision": "tf32"}, "precision tf32 is for a model on a GPU, but this one is on cpu"),
        (
            {"precision": "mixed", "half": True},
            "precision mixed is for a model in float32, but this one is in bfloat16",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_request_is_one_sentence_before_anything_is_trained(changes, message, model, tokenizer, frame, tmp_path):
    if changes.pop("half", False):
        model = model.bfloat16()
    request = {"tokenizer": tokenizer, "dataset": frame, "method": "lora", "budget": RANK_1, "max_length": 32}
    with pytest.raises(BadRequestError) as error:
        ar.train(model, folder=tmp_path / "cells", **request | changes)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "cells").exists()


def test_a_head_for_other_classes_and_columns_that_cannot_be_found_are_named(model, tokenizer, frame):
    two = frame[frame["stars"] != "up"]
    with pytest.raises(BadRequestError, match="the model has num_labels 3, but these data need 2: load it with num_l"):
        ar.train(model, tokenizer, two, "lora", RANK_1)
    unnamed = frame.rename(columns={"review": "a", "stars": "b"}).assign(id=1)
    with pytest.raises(BadRequestError, match="the data have the columns a, b, id: say which holds the texts"):
        ar.train(model, tokenizer, unnamed, "lora", RANK_1)
    with pytest.raises(BadRequestError, match="the splits of the data are 'dev': name them train, validation and test"):
        ar.train(model, tokenizer, {"dev": frame}, "lora", RANK_1)


def test_a_notebook_shows_the_points(trained):
    assert f"{trained.parameters:,} adapter parameters" in repr(trained)
    assert "<table" in trained._repr_html_() and f"{trained.parameters:,}" in trained._repr_html_()
