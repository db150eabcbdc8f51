"""`adapad init` writes a file that a sweep can run, with what was counted in comments."""

import json

import pandas as pd
import pytest
import transformers
from typer.testing import CliRunner

from adapad_ray.cli import app
from adapad_ray.draft.subjects import subject_of
from adapad_ray.draft.yaml_text import value
from adapad_ray.safe_yaml import read_yaml
from adapad_ray.sweep.spec_file import load_spec
from adapad_ray.testing import COST_PER_RANK, word_tokenizer
from tests.conftest import WORDS


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A causal language model without a chat template, which reads 256 tokens."""
    folder = tmp_path_factory.mktemp("decoder")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    transformers.LlamaConfig(vocab_size=64, architectures=["LlamaForCausalLM"], **sizes).save_pretrained(folder)
    tokenizer = word_tokenizer(WORDS)
    tokenizer.eos_token, tokenizer.model_max_length = "[SEP]", 256
    tokenizer.save_pretrained(folder)
    return folder


def init(*arguments):
    return CliRunner().invoke(app, ["init", *map(str, arguments)], env={"COLUMNS": "200"})


def test_a_file_of_reviews_becomes_a_sweep(tiny_model, reviews, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"no": n, "#words": line.rpartition(",")[0], "stars": line.rpartition(",")[2]})
            for n, line in enumerate(reviews.read_text().splitlines()[1:])]  # fmt: skip
    (tmp_path / "my films.jsonl").write_text("\n".join(rows))
    result = init("my films.jsonl", "--model", tiny_model)
    assert result.exit_code == 0, result.output
    assert "This machine: about" in result.output
    written = (tmp_path / "my films.yaml").read_text()
    assert "# down 134, so-so 133, up 133" in written and "# not read: no" in written
    assert f"\n  - 12 ranks    # {COST_PER_RANK:,} parameters" in written
    spec = load_spec(tmp_path / "my films.yaml")
    assert (spec.name, spec.task.text, spec.task.label) == ("my-films", "#words", "stars")
    assert spec.budgets == ["3 ranks", "12 ranks", "48 ranks"]
    assert spec.tune.trials == 6 and spec.tune.budget == "ends"
    assert spec.training.epochs == 3 and spec.training.max_length == 24
    again = init("my films.jsonl")
    assert again.exit_code == 2 and "exists" in again.output and (tmp_path / "my films.yaml").read_text() == written


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("none.csv", None, "does not exist"), ("a.csv", "", "is empty"), ("a.json", "[1, 2]", "a row is an object"),
     ("a.txt", "x", "use one of .jsonl"), ("a.parquet", "x", "could not be read as Parquet")],
)  # fmt: skip
def test_what_is_no_data_is_refused_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    result = init(tmp_path / name, "--to", tmp_path / "a.yaml")
    assert result.exit_code == 2 and message in result.output and len(result.output.splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["review", "a b", "#x", "no", "1.5", 'a "b" \\', "é: x", "null", "~", "2026-01-01", "-"]
)
def test_every_name_is_read_back_as_it_was(text):
    assert read_yaml(f"key: {value(text)}", "it") == {"key": text}


def test_a_file_of_conversations_becomes_a_chat_sweep(chat_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"prompt": f"film {n}", "completion": WORDS[n % 6], "source": "a"}) for n in range(100)]
    (tmp_path / "talks.jsonl").write_text("\n".join(rows))
    result = init("talks.jsonl", "--model", chat_model)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("talks.yaml: chat of the columns prompt, completion\n")
    written = (tmp_path / "talks.yaml").read_text()
    assert "prompt, completion; the first: film 0" in written and "# not read: source" in written
    spec = load_spec(tmp_path / "talks.yaml")
    assert (spec.task.type, spec.task.chat_template, spec.seeds) == ("chat", "plain", [0])
    assert spec.training.max_length == 128 and spec.tune.trials == 6


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, "chat of the columns messages"),
        ({"conversations": [{"from": "human", "value": "Hi"}]}, "chat of the columns conversations"),
        ({"instruction": "Hi", "output": "Hello"}, "chat of the columns instruction, output"),
        ({"instruction": "Hi", "context": "", "response": "Hello"}, "chat of the columns instruction, context, respon"),
        ({"messages": "Hi", "kind": "a"}, "classification of column 'kind' from the texts of column 'messages'"),
        ({"prompt": "Hi", "label": "a"}, "classification of column 'label' from the texts of column 'prompt'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_columns_of_conversations_are_known_by_their_names_and_values(row, sentence):
    text = next(iter(row))
    rows = [row if isinstance(row[text], list) else {**row, text: f"{row[text]} {n}"} for n in range(12)]
    table = pd.DataFrame(rows)
    if "classification" in sentence:
        table[list(row)[1]] = ["a", "b"] * 6
    subject = subject_of(table, text=None, label=None)
    assert subject.sentence.startswith(sentence)
    assert "Hi" in " ".join(subject.comments().values())


def test_columns_that_are_named_are_no_conversations():
    table = pd.DataFrame({"prompt": [f"Hi {n}" for n in range(12)], "completion": ["yes", "no"] * 6})
    assert subject_of(table, text=None, label="completion").type == "classification"
