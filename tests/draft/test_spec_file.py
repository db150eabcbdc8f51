"""`adapad init` writes a file that a sweep can run, with what was counted in comments."""

import json

import pytest
from typer.testing import CliRunner

from adapad_ray.cli import app
from adapad_ray.draft.spec_file import _value
from adapad_ray.safe_yaml import read_yaml
from adapad_ray.sweep.spec_file import load_spec
from adapad_ray.testing import COST_PER_RANK


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
    assert spec.budgets == ["3 ranks", "12 ranks", "48 ranks"] and spec.tune.trials == 6
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
    assert read_yaml(f"key: {_value(text)}", "it") == {"key": text}
