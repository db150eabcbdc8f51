"""Files that are not what their names say, and tables that can be read but may not be meant."""

import json
import os

import pandas as pd
import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import load_task

ROWS = [(f"film number {i} was fine", f"c{i % 2}") for i in range(60)]


def lines(rows=ROWS, header=("text", "label"), separator=","):
    return "\n".join(map(separator.join, [header, *rows])) + "\n"


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def load(path, **fields):
    return load_task({"train": str(path), **fields})


def refused(path, **fields):
    with pytest.raises(BadRequestError) as error:
        load(path, **fields)
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lines([("фильм", "ы"), ("кино", "я")]).encode("utf-16-le"), "is in UTF-16 without its mark"),
        (lines([("电影", "好"), ("电影院", "坏")]).encode("utf-16-be"), "is in UTF-16 without its mark"),
        (lines([("映画", "x"), ("映画館", "y")]).encode("iso-2022-jp"), "is in ISO-2022-JP: save it as UTF-8"),
        (b"\xfd7zXZ\x00\x00\x04\xe6", "is no text but xz"),
        (b"\x28\xb5\x2f\xfd\x04\x58", "is no text but zstandard"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is no text but an old file of Office"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "is no text but 7-Zip"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n\x01\x02stream", "is no text: unpack or convert it"),
    ],
)
def test_the_reason_is_what_the_file_is(tmp_path, content, reason):
    assert reason in refused(write(tmp_path / "t.csv", content))


def test_a_null_character_inside_a_text_is_part_of_it(tmp_path):
    raw = load(write(tmp_path / "t.csv", lines([*ROWS, ("a\0b", "c0")])))
    assert any("a\0b" in frame["text"].tolist() for frame in raw.splits.values())


def test_links_in_a_loop_and_pipes_have_their_reason(tmp_path):
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    assert "does not exist" in refused(tmp_path / "loop.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    assert "is a pipe or a device: write its content to a file" in refused(tmp_path / "pipe.csv")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_the_header_of_a_joined_file_is_no_row(tmp_path, mark, separator):
    name = "t.csv" if separator == "," else "t.tsv"
    content = lines(separator=separator) + mark + lines(separator=separator)
    assert "repeats its header in line 62" in refused(write(tmp_path / name, content))


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("other", ["Label", "label "])
def test_a_column_of_almost_the_same_name_is_said(tmp_path, ending, other):
    table = pd.DataFrame([(text, label, "z") for text, label in ROWS], columns=["text", "label", other])
    path = tmp_path / f"t.{ending}"
    if ending == "parquet":
        table.to_parquet(path)
    elif ending == "jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    raw = load(path)
    assert raw.class_names == ("c0", "c1")
    assert [f"'label' and {other!r} differ in case or spaces alone: 'label' is read" in w for w in raw.warnings] == [
        True
    ]


def test_quotation_marks_behind_a_space_are_said(tmp_path):
    rows = [(label, f' "{text}"') for text, label in ROWS]
    raw = load(write(tmp_path / "t.csv", lines(rows, ("label", "text"))))
    assert "60 of 60 values of column 'text' keep the quotation marks around them" in raw.warnings[0]
    assert "because a space stands before or after them" in raw.warnings[0]


def test_lines_of_json_may_end_in_a_carriage_return(tmp_path):
    content = "\r".join(json.dumps({"text": text, "label": label}) for text, label in ROWS)
    assert load(write(tmp_path / "t.jsonl", content)).class_names == ("c0", "c1")


def test_a_column_has_one_role(tmp_path):
    path = write(tmp_path / "t.csv", lines())
    assert "text and label are both column 'label': name another for one" in refused(path, text="label")
    assert "text and text_pair are both column 'text'" in refused(path, text_pair="text")
    generation = {"type": "generation", "prompt": "{text} is {label}", "answer": "label"}
    assert "prompt {label} and answer are both column 'label'" in refused(path, **generation)
    choice = {"type": "choice", "prompt": "{text} is {label}", "words": {"c0": " a", "c1": " b"}}
    assert "prompt {label} and label are both column 'label'" in refused(path, **choice)
    assert load(path, group="text").class_names == ("c0", "c1")


@pytest.mark.parametrize(
    ("second", "message"), [(" a", "classes 'c0' and 'c1' have the same word ' a'"), (" ", "class 'c1' has no word")]
)
def test_the_words_of_a_choice_tell_its_classes_apart(tmp_path, second, message):
    choice = {"type": "choice", "prompt": "{text} is", "words": {"c0": " a", "c1": second}}
    assert message in refused(write(tmp_path / "t.csv", lines()), **choice)


def test_a_date_is_spelled_alike_whatever_stands_beside_it(tmp_path):
    """pandas writes the time of day of every date if one date of the column has one."""
    dates = [pd.Timestamp(2024, 1, 1), pd.Timestamp(2024, 1, 2, 5)]
    train = pd.DataFrame({"text": [text for text, _ in ROWS], "label": [dates[i % 2] for i in range(60)]})
    train.to_parquet(tmp_path / "train.parquet")
    train[train["label"] == dates[0]].to_parquet(tmp_path / "test.parquet")
    raw = load(tmp_path / "train.parquet", test=str(tmp_path / "test.parquet"))
    assert raw.class_names == ("2024-01-01", "2024-01-02 05:00:00")


@pytest.mark.parametrize("name", ["nan", "NaN", "None", "null", "<NA>"])
def test_a_class_called_as_a_missing_value_is_a_class_and_said(tmp_path, name):
    raw = load(write(tmp_path / "t.csv", lines([*ROWS, *[(f"text {i}", name) for i in range(9)]])))
    assert name in raw.class_names and f"a class is called {name!r}: is it a missing value?" in raw.warnings


def test_minus_zero_and_zero_are_one_number(tmp_path):
    raw = load(write(tmp_path / "t.csv", lines([(text, ("0", "-0", "1")[i % 3]) for i, (text, _) in enumerate(ROWS)])))
    assert "'-0' and '0' are 2 classes that differ in spelling alone" in raw.warnings[0]


def test_numbers_instead_of_classes_are_not_blamed_on_carving(tmp_path):
    path = write(tmp_path / "t.csv", lines([(text, f"{i / 7:.3f}") for i, (text, _) in enumerate(ROWS)]))
    assert "use task.type=regression for numbers" in refused(path)


@pytest.mark.parametrize("labels", [("3", "3"), ("1e-50", "2e-50"), ("1.00000001", "1.00000002")])
def test_labels_of_a_regression_that_are_all_one_number_are_refused(tmp_path, labels):
    path = write(tmp_path / "t.csv", lines([(text, labels[i % 2]) for i, (text, _) in enumerate(ROWS)]))
    assert "all labels in the train split" in (reason := refused(path, type="regression"))
    assert "there is nothing to predict" in reason


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["end"], "answer_start": [-3]}, r"does not point to the answer's text \(first in row 8\)"),
        ({"text": ["7"], "answer_start": [0]}, r"answer_start of 1 row .* \(first in row 8\)"),
        ({"text": [""], "answer_start": [0]}, r"with empty lists where there is none \(row 8\)"),
    ],
)
def test_an_answer_that_is_not_in_its_context_is_named(tmp_path, answers, message):
    rows = [
        {"context": f"part {i} the end", "question": f"what is {i}?", "answers": {"text": ["the"], "answer_start": [n]}}
        for i, n in ((i, 6 + len(str(i))) for i in range(60))
    ]
    rows[7]["answers"] = answers
    path = write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(BadRequestError, match=message):
        load(path, type="span")
