"""The code of `docs/python.md` runs, with a tiny model and few steps in the places of the real ones."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import transformers
from datasets import Dataset

from adapad_ray.api.loaded_sweep import LoadedSweep

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
FEW = {'"100k"': "1792", "epochs=3": "epochs=1, max_length=32", "steps=300": "steps=5", "max_steps=300": "max_steps=5"}


@pytest.fixture
def run(monkeypatch, tmp_path, tiny_model, reviews):
    """Executes the one block with these words, in a folder with a file of reviews of two classes; returns its names."""
    table = pd.read_csv(reviews)
    table[table["stars"] != "so-so"][:120].to_csv(tmp_path / "reviews.csv", index=False)
    monkeypatch.chdir(tmp_path)
    names = {}

    def execute(words, changes=None, **given):
        names.update(given)
        (block,) = [block for block in BLOCKS if words in block]
        smaller = {**FEW, "distilbert/distilbert-base-uncased": str(tiny_model), "minilm-l6": str(tiny_model)}
        for old, new in (smaller | (changes or {})).items():
            block = block.replace(old, new)
        exec(compile(block, str(PAGE), "exec"), names)
        return names

    execute("import adapad_ray as ar\n")
    return execute


def test_an_adapter_is_trained_saved_used_and_shrunk(run):
    names = run("ar.train(model, tokenizer")
    assert names["run"].parameters <= 1792
    names = run("ar.compress(", {'moving film."])': 'moving film."], max_length=32)'})
    assert 0.9 <= names["report"].energy_kept < 1


def test_a_method_is_attached_to_a_loop_and_to_trainer(run, tiny_model):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_model)
    table = pd.read_csv("reviews.csv")
    rows = [{**tokenizer(text), "labels": int(stars == "up")} for text, stars in table.itertuples(index=False)]
    collate = transformers.DataCollatorWithPadding(tokenizer)
    batches = [collate(rows[start : start + 8]) for start in range(0, 40, 8)]
    names = run("for batch in batches", model=model, batches=batches)
    assert names["model"] is model and Path("my-adapter/adapter_config.json").exists()
    names["attached"] = names["ar"].attach(model, "adapad", budget=1792, steps=5)
    more = {"Trainer": transformers.Trainer, "TrainingArguments": transformers.TrainingArguments}
    run("trainer.train()", **more, data=Dataset.from_list(rows), collate=collate)
    assert names["attached"].steps_done == 5


def test_a_sweep_is_planned_and_its_attributes_exist(run):
    """The block's sweep itself would start a cluster; `test_sweeps` runs one."""
    (block,) = [block for block in BLOCKS if "ar.sweep(" in block]
    later = dict.fromkeys(block[block.index("sweep = ") :].splitlines(), "")
    names = run("ar.sweep(", later | {'    "budgets"': '    "training": {"max_length": 32},\n    "budgets"'})
    assert names["ar"].plan(names["spec"]).gaps.empty
    assert all(hasattr(LoadedSweep, name) for name in re.findall(r"\bsweep\.(\w+)", block))
