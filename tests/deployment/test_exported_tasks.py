"""Exported adapters of every task type: PEFT's Auto classes load them, and they answer and score new rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import peft
import pytest
import torch
from small_tasks import TASKS, compute, spec_of, write_models, write_questions
from transformers import AutoTokenizer

from adapad_ray.deployment.prediction import load_exported
from adapad_ray.errors import BadRequestError
from adapad_ray.sweep.export import AdapterChoice, export_adapter

AUTO = {
    "span": ("AutoPeftModelForQuestionAnswering", "QUESTION_ANS"),
    "span 2.0": ("AutoPeftModelForQuestionAnswering", "QUESTION_ANS"),
    "regression": ("AutoPeftModelForSequenceClassification", "SEQ_CLS"),
    "choice": ("AutoPeftModelForCausalLM", "CAUSAL_LM"),
    "generation": ("AutoPeftModelForCausalLM", "CAUSAL_LM"),
    "chat": ("AutoPeftModelForCausalLM", "CAUSAL_LM"),
}
INPUTS = {
    "regression": ["context"],
    "choice": ["context"],
    "generation": ["context", "question"],
    "chat": ["question", "context"],
    "span": ["question", "context"],
    "span 2.0": ["question", "context"],
}


@pytest.fixture(scope="module", params=TASKS)
def exported(request, tmp_path_factory):
    """The task's name, the exported folder of its lora, the record of the cell, and the test file."""
    folder = tmp_path_factory.mktemp("sweep")
    data, models = write_questions(tmp_path_factory.mktemp("data")), write_models(tmp_path_factory.mktemp("models"))
    changes = {"methods": {"lora": {}}, "training": {"epochs": 1, "max_length": 32, "learning_rate": 1e-2}}
    results = compute(spec_of(request.param, models, data, **changes), folder)
    budget = str(results["lora"].identity.budget)
    found = export_adapter(folder, folder / "out", AdapterChoice("lora", budget))
    assert found.warnings == []
    return request.param, folder / "out", results["lora"], str(data / "test.jsonl")


def test_the_auto_class_of_its_task_loads_it_with_the_same_outputs(exported):
    task, folder, _, _ = exported
    name, task_type = AUTO[task]
    assert json.loads((folder / "adapter_config.json").read_text())["task_type"] == task_type
    arguments = {"num_labels": 1} if task == "regression" else {}
    model = getattr(peft, name).from_pretrained(str(folder), **arguments).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    inputs = tokenizer("what colour has the cat ?", return_tensors="pt")
    inputs.pop("token_type_ids", None)
    expected = load_exported(folder)
    with torch.inference_mode():
        ours, theirs = expected.model(**inputs), model(**inputs)
    key = "start_logits" if "Question" in name else "logits"
    torch.testing.assert_close(theirs[key], ours[key], atol=1e-5, rtol=0)


def test_the_card_loads_it_by_that_class(exported):
    task, folder, cell, _ = exported
    card = (folder / "README.md").read_text()
    assert f"model = {AUTO[task][0]}.from_pretrained" in card and "library_name: peft" in card
    assert (
        f"{cell.final.parameters:,} parameters on 14 modules" in card or f"{cell.final.parameters:,} parameters" in card
    )
    assert str(folder.parent) not in card, "no path of this machine"


def test_evaluation_repeats_the_recorded_test_scores(exported):
    _, folder, cell, test_file = exported
    model = load_exported(folder)
    found = model.evaluate(model.read(test_file, answers=True))
    recorded = {name: cell.final.test[name] for name in found}
    assert found == pytest.approx(recorded, abs=2e-5)


def answers_messages_with_its_own_template(folder, rows, expected, tmp_path):
    """The same answers from a file of messages, whether or not they have an answer already, and by PEFT alone."""
    asked = [[{"role": "user", "content": f"{row['question']}\n\n{row['context']}"}] for row in rows]
    answered = [[*turns, {"role": "assistant", "content": "red"}] for turns in asked]
    model = load_exported(folder)
    for name, conversations in (("asked", asked), ("answered", answered)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in conversations))
        assert model.predict(model.read(str(file), answers=False))["prediction"].tolist() == expected
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    inputs = tokenizer.apply_chat_template(asked[0], add_generation_prompt=True, return_tensors="pt")
    alone = peft.AutoPeftModelForCausalLM.from_pretrained(str(folder)).eval()
    said = alone.generate(**inputs, max_new_tokens=3, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True).strip() == expected[0]


def test_predictions_need_no_answers_and_keep_the_order_of_the_rows(exported, tmp_path):
    task, folder, _, test_file = exported
    rows = [json.loads(line) for line in Path(test_file).read_text().splitlines()]
    bare = [{key: value for key, value in row.items() if key in INPUTS[task]} for row in rows]
    file = tmp_path / "bare.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in bare))
    model = load_exported(folder)
    found = model.predict(model.read(str(file), answers=False))
    assert found[INPUTS[task]].to_dict("records") == bare
    backwards = model.predict(model.read(str(file), answers=False)[::-1].reset_index(drop=True))
    assert backwards["prediction"].tolist()[::-1] == pytest.approx(found["prediction"].tolist())
    if task == "choice":
        shares = found[["probability false", "probability true"]]
        np.testing.assert_allclose(shares.sum(axis=1), 1)
        assert (shares.idxmax(axis=1).str.removeprefix("probability ") == found["prediction"]).all()
    if task.startswith("span"):
        assert found["score against answering"].notna().all()
    if task == "chat":
        answers_messages_with_its_own_template(folder, rows[:5], found["prediction"].tolist()[:5], tmp_path)


def test_a_missing_column_is_one_sentence(exported, tmp_path):
    _, folder, _, _ = exported
    file = tmp_path / "rows.csv"
    file.write_text("other\n1\n")
    model = load_exported(folder)
    with pytest.raises(BadRequestError, match=r"the given file .*rows\.csv' has no column"):
        model.read(str(file), answers=False)
    with pytest.raises(BadRequestError, match=r"the given file .*none\.csv' does not exist"):
        model.read(str(tmp_path / "none.csv"), answers=False)


def test_a_cells_own_folder_is_sent_to_export(exported):
    _, folder, cell, _ = exported
    with pytest.raises(BadRequestError, match="export the adapter with `adapad export`"):
        load_exported(folder.parent / "cells" / cell.id / "adapter")


def test_a_pattern_instead_of_module_names_is_rejected(exported, tmp_path):
    _, folder, _, _ = exported
    shutil.copytree(folder, tmp_path / "hostile")
    path = tmp_path / "hostile" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "rank_pattern": {"(a+)+$": 1}}))
    with pytest.raises(BadRequestError, match="not named by full paths"):
        load_exported(tmp_path / "hostile")


@pytest.mark.parametrize(
    "changes",
    [
        {"task": {"type": "bilinear"}},
        {"task": {"type": "none"}},
        {"task": {}},
        {"task": []},
        {"batch_size": 0},
        {"labels": "ab"},
        {"model": None},
    ],
)
def test_a_damaged_record_is_one_sentence(exported, tmp_path, changes):
    _, folder, _, _ = exported
    shutil.copytree(folder, tmp_path / "damaged")
    path = tmp_path / "damaged" / "adapad.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(BadRequestError, match="is damaged: export the adapter again"):
        load_exported(tmp_path / "damaged")


def test_predictions_of_no_rows_are_rejected(exported):
    _, folder, _, _ = exported
    model = load_exported(folder)
    with pytest.raises(BadRequestError, match="no rows"):
        model.predict(pd.DataFrame(columns=list(model.record.source.columns().values())))
