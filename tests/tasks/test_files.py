"""Files are read literally: the named file, the named columns, and every value as the text that stands in the file."""

import csv
import io
import json
import os

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import load_task
from adapad_ray.tasks.data.files import read_files

COLUMNS = {"text": "text", "label": "label"}


def read(path, columns=COLUMNS):
    frame = read_files("t", {"train": str(path)}, columns).splits["train"]
    return [tuple(row) for row in frame.itertuples(index=False)]


def labels(path, **fields):
    return load_task({"train": str(path), **fields}).class_names


def rows(*names, count=150):
    return [(f"film number {i} was fine", names[i % len(names)]) for i in range(count)]


def delimited(table, separator=",", header=("text", "label")):
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator).writerows([header, *table])
    return out.getvalue()


def write(path, content, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


LOOKALIKES = st.sampled_from(
    [
        *(
            "01",
            "007",
            "1",
            "1.0",
            "0.60",
            "1e5",
            "-0",
            "1_000",
            "NaN",
            "nan",
            "inf",
            "-inf",
            "NA",
            "N/A",
            "null",
            "None",
        ),
        *(
            "true",
            "True",
            "FALSE",
            "2024-01-01",
            "2024-01-01T00:00:00Z",
            "12:30",
            "'",
            ",",
            "a,b",
            "\\",
            "\\n",
            "#",
            "=1+1",
        ),
        *(" a", "a ", '"', '""', '"a"', 'a"b', "a\tb", "a\nb", "a\r\nb", "\n", "\t", "\ufeffa", "\u2028", "\x85", "é"),
    ]
)
VALUES = (
    LOOKALIKES
    | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    | st.text('a1",\t\n\r ', min_size=1, max_size=8)
)


@settings(max_examples=500, deadline=None)
@given(table=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=6))
def test_what_was_written_is_read_back_from_every_format(table, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "written"
    lines = [
        json.dumps({"text": text, "label": label}, ensure_ascii=bool(i % 2)) for i, (text, label) in enumerate(table)
    ]
    columns = dict(zip(("text", "label"), map(list, zip(*table, strict=True)), strict=True))
    write(folder / "t.csv", delimited(table))
    write(folder / "t.tsv", delimited(table, "\t"))
    write(folder / "t.jsonl", "\n".join(lines))
    pyarrow.parquet.write_table(pa.table(columns), folder / "t.parquet")
    for ending in ("csv", "tsv", "jsonl", "parquet"):
        assert read(folder / f"t.{ending}") == table, ending


@pytest.mark.parametrize(
    "name", ["data[1].csv", "p [v2]/t.csv", "*.csv", "a?b#c%20d.csv", "zip:::t.csv", "label=7/t.csv"]
)
def test_a_name_is_no_pattern(tmp_path, name):
    write(tmp_path / "data1.csv", delimited(rows("other", "rows")))
    assert labels(write(tmp_path / name, delimited(rows("x", "y")))) == ("x", "y")


def test_the_names_of_folders_are_no_columns(tmp_path):
    path = tmp_path / "label=7" / "t.parquet"
    path.parent.mkdir()
    pd.DataFrame(rows("x", "y"), columns=["text", "label"]).to_parquet(path)
    pd.DataFrame(rows("z", "w"), columns=["text", "label"]).to_parquet(path.parent / "other.parquet")
    assert labels(path) == ("x", "y")


def test_new_content_is_read_at_the_same_path_size_and_time(tmp_path):
    for names in (("no", "ya"), ("am", "up")):
        path = write(tmp_path / "t.csv", delimited(rows(*names)))
        os.utime(path, (1_700_000_000, 1_700_000_000))
        assert labels(path) == names


@pytest.mark.parametrize(
    "names",
    [
        ("01", "02", "A1"),
        ("01", "02"),
        ("007", "7.5"),
        ("false", "true"),
        ("inf", "nan"),
        ("NA", "null", "None"),
        ("2024-01-01", "2024-01-02"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_classes_are_called_as_the_file_spells_them(tmp_path, names, ending):
    table = rows(*names)
    lines = "\n".join(json.dumps({"text": text, "label": label}) for text, label in table)
    path = write(tmp_path / f"t.{ending}", delimited(table) if ending == "csv" else lines)
    assert set(labels(path)) == set(names)


def test_numbers_and_booleans_of_json_keep_their_spelling(tmp_path):
    path = write(tmp_path / "t.jsonl", '{"text": 0.60, "label": 1.0}\n\n{"text": 1e5, "label": true}\n')
    assert read(path) == [("0.60", "1.0"), ("1e5", "true")]
    path = write(
        tmp_path / "t.json", '[{"text": 12345678901234567890, "label": "NaN"},\n {"text": "Infinity", "label": null}]'
    )
    assert read(path) == [("12345678901234567890", "NaN"), ("Infinity", None)]


def test_an_answer_is_compared_as_it_is_written(tmp_path):
    content = delimited([(f"is {i}", "0.60") for i in range(50)], header=("q", "a"))
    task = {"type": "generation", "train": str(write(tmp_path / "t.csv", content)), "prompt": "{q}?", "answer": "a"}
    assert set(load_task(task).splits["train"]["label"]) == {("0.60",)}


def test_booleans_of_a_choice_are_lower_case_whatever_wrote_them(tmp_path):
    task = {"type": "choice", "prompt": "{text}?", "words": {True: " yes", False: " no"}}
    table = rows(True, False)
    pd.DataFrame(table, columns=["text", "label"]).to_parquet(tmp_path / "t.parquet")
    write(tmp_path / "t.csv", delimited(table))
    write(tmp_path / "t.jsonl", "\n".join(json.dumps({"text": text, "label": label}) for text, label in table))
    for ending in ("parquet", "csv", "jsonl"):
        assert load_task({**task, "train": str(tmp_path / f"t.{ending}")}).class_names == ("false", "true")


def test_parquet_keeps_its_types_and_an_index_is_a_column(tmp_path):
    table = pd.DataFrame(
        {"text": pd.Categorical([f"film {i}" for i in range(150)]), "label": [i % 2 for i in range(150)]}
    )
    path = tmp_path / "t.parquet"
    table[table.index != 3].to_parquet(path)
    assert labels(path) == ("0", "1")
    table.assign(label=table["label"].astype(float)).set_index("text").to_parquet(path)
    assert labels(path) == ("0", "1")


def test_other_columns_are_not_looked_at(tmp_path):
    odd = '{"text": "a", "label": "x", "meta": 1}\n{"text": "b", "label": "y", "meta": {"a": [1]}, "more": null}\n'
    assert read(write(tmp_path / "t.jsonl", odd)) == [("a", "x"), ("b", "y")]
    content = "id,text,note,label,,\n1,a,,x,,\n2,b,7,y\n\n3,c,2024-01-01,z,,,,\n"
    assert read(write(tmp_path / "t.csv", content)) == [("a", "x"), ("b", "y"), ("c", "z")]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_a_mark_at_the_beginning_are_no_content(tmp_path, mark):
    content = 'text,label\r\n"a\r\nb",x\r\nc,y\r\n'
    assert read(write(tmp_path / "t.csv", mark + content)) == [("a\r\nb", "x"), ("c", "y")]
    assert read(write(tmp_path / "t.jsonl", mark + '{"text": "a", "label": "x"}\r\n')) == [("a", "x")]


def test_fields_may_be_long(tmp_path):
    assert read(write(tmp_path / "t.csv", delimited([("a" * 300_000, "x")]))) == [("a" * 300_000, "x")]


def stray(separator, first, second):
    """A table with quotation marks of its own in two rows, none of which is doubled."""
    texts = [f"good word {i} film" for i in range(300)]
    texts[100], texts[150] = first, second
    return "\n".join([f"text{separator}label", *(f"{text}{separator}{i % 2}" for i, text in enumerate(texts))])


@pytest.mark.parametrize("second", ['"another', 'said "so"', 'it is 7"'])
def test_no_quotation_mark_of_a_tsv_file_swallows_rows(tmp_path, second):
    found = read(write(tmp_path / "t.tsv", stray("\t", '"one', second)))
    assert len(found) == 300 and found[100][0] == '"one' and found[150][0] == second


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('"another', "a quotation mark in line 102 that is closed in line 152 before its field ends"),
        ('it is 7"', "line 102 that is closed in line 152, and each of these lines is a row by itself"),
        ("none", "a quotation mark in line 102 that is never closed"),
    ],
)
def test_no_quotation_mark_of_a_csv_file_swallows_rows(tmp_path, second, message):
    with pytest.raises(BadRequestError, match=message):
        read(write(tmp_path / "t.csv", stray(",", '"one', second)))


def test_quoted_tsv_files_are_understood(tmp_path):
    for content in ('text\tlabel\n"a, b"\tx\nc\ty\n', '"text"\t"label"\n"a, b"\t"x"\n"c"\t"y"\n'):
        assert read(write(tmp_path / "t.tsv", content)) == [("a, b", "x"), ("c", "y")]
    assert read(write(tmp_path / "t.tsv", 'text\tlabel\n"good"\tx\n"bad" film\ty\n')) == [
        ('"good"', "x"),
        ('"bad" film', "y"),
    ]
    with pytest.raises(BadRequestError, match="closed in line 2 before its field ends"):
        read(write(tmp_path / "t.tsv", '"text"\t"label"\n"a "b" c"\t"x"\n'))


def test_a_text_of_several_lines_is_no_swallowed_row(tmp_path, caplog):
    table = [(f"Dear {i},\nmany thanks", i % 2) for i in range(50)] + [(f"short {i}", i % 2) for i in range(50)]
    assert read(write(tmp_path / "t.csv", delimited(table))) == [(text, str(label)) for text, label in table]
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.csv",
            "text,label\ncafé,x".encode("latin-1"),
            r"not in UTF-8 \(byte 0xe9 in line 2 is the first that is not\): save it as UTF-8, .*`iconv -f ENCODING",
        ),
        ("t.csv", "text,label\na,x".encode("utf-16"), "is in UTF-16: save it as UTF-8"),
        ("t.csv", "text,label\na,x".encode("utf-16-le"), "is in UTF-16 without its mark"),
        ("t.csv", "text,label\na,x".encode("utf-32"), "is in UTF-32"),
        ("t.jsonl", b"\x1f\x8b\x08\x00", "is no text but gzip"),
        ("t.csv", b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
        ("t.csv", b" \n", "is empty"),
        ("t.csv", b"text,label\n", "has no rows"),
        ("t.csv", b"text;label\na;x\n", "is separated by semicolons, not by commas: save it with commas"),
        ("t.csv", b"text;label\na, b;x\n", "is separated by semicolons, not by commas"),
        ("t.csv", b"text\tlabel\na\tx\n", "is separated by tabs, not by commas: name it .tsv"),
        ("t.tsv", b'"text","label"\na,x\n', "is separated by commas, not by tabs: name it .csv"),
        ("t.csv", b"sep=;\ntext;label\na;x\n", "begins with Excel's line 'sep=;': delete it"),
        ("t.csv", b"text,label,label\na,x,y\n", "has 2 columns called 'label', the one for 'label'"),
        ("t.csv", b"text, label\na,x\n", "has no column 'label' for 'label': available are text, ' label'"),
        ("t.csv", b"text,label\na,x\nwell, b,y\n", "has 3 fields in line 3 and 2 in its header: .* in double quotes"),
        ("t.csv", b"text,label\na,x\nb\nc,y\n", "has 1 field in line 3 and 2 in its header"),
        ("t.csv", b'text,label\n"a" b,x\n', "quotation mark in line 2 that is closed in line 2 before its field ends"),
        ("t.jsonl", b'{"text": "a"\n', r"could not be read as JSON \(.* in line 1\)"),
        ("t.jsonl", b'{"text": "a", "label": 1}\n[1]\n', r"holds \"\['1'\]\" in line 2: a row is an object"),
        ("t.jsonl", b'{"text": "a", "label": "x", "text": "b"}\n', "the key 'text' twice in one object .from line 1."),
        ("t.json", b'[{"text": "a", "label": "x"},\n {"text": }]', r"could not be read as JSON \(.* in line 2\)"),
        ("t.jsonl", b'{"body": "a", "label": "x"}\n', "has no column 'text' for 'text': available are body, label"),
        ("t.parquet", b"no parquet", "could not be read as Parquet"),
    ],
)
def test_what_cannot_be_read_has_one_reason(tmp_path, name, content, message):
    with pytest.raises(BadRequestError, match=message):
        read(write(tmp_path / name, content))


def test_a_column_of_parquet_that_occurs_twice_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pa.table([["a"], ["x"], ["y"]], names=["text", "label", "label"]), path)
    with pytest.raises(BadRequestError, match="has 2 columns called 'label'"):
        read(path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"text": [{"role": "user"}]},
            r"column 'text' of the train data holds a list in row 8 \(\[{'role': 'user'}\]\)",
        ),
        ({"text": {"en": "a"}}, "column 'text' of the train data holds an object in row 8"),
        ({"label": ["a", "b"]}, "column 'label' of the train data holds a list in row 8"),
        ({"text": None}, "column 'text' of the train data is empty in 1 of 60 rows, first in row 8"),
        ({"label": None}, "column 'label' of the train data is empty in 1 of 60 rows, first in row 8"),
        ({"label": ""}, "column 'label' of the train data is empty in 1 of 60 rows, first in row 8"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_row_that_is_no_text_or_class_is_named(tmp_path, changed, message, ending):
    table = [{"text": text, "label": label} for text, label in rows("a", "b", count=60)]
    table[7] |= changed
    path = tmp_path / f"t.{ending}"
    if ending == "jsonl":
        write(path, "\n".join(map(json.dumps, table)))
    else:
        column = next(iter(changed))
        if isinstance(changed[column], (list, dict)):  # a column of Parquet has one type
            table = [row | {column: changed[column]} for row in table]
            message = message.replace("row 8", "row 1")
        pd.DataFrame(table).to_parquet(path)
    with pytest.raises(BadRequestError, match=message):
        load_task({"train": str(path)})


def test_half_a_character_is_refused(tmp_path):
    path = write(tmp_path / "t.jsonl", '{"text": "a", "label": "x"}\n{"text": "\\ud800", "label": "x"}')
    with pytest.raises(BadRequestError, match=r"holds half a surrogate pair in row 2 \('.ud800'\)"):
        labels(path)


@pytest.mark.parametrize(
    ("names", "warning"),
    [
        (("neg", "neg "), "'neg' and 'neg ' are 2 classes that differ in spelling alone"),
        (("pos", "pos\u200b"), "are 2 classes that differ in spelling alone"),
        (("Neg", "neg"), "'Neg' and 'neg' are 2 classes"),
        (("caf\u00e9", "cafe\u0301"), "are 2 classes that differ in spelling alone"),
        (("1", "1.0"), "'1' and '1.0' are 2 classes"),
        (("01", "1"), "'01' and '1' are 2 classes"),
        (("0.5", "1.5"), "classes are called by numbers such as 0.5: use task.type=regression"),
        (("a", " "), "a class is called ' '"),
    ],
)
def test_classes_that_may_not_be_meant_are_warned_about(tmp_path, names, warning):
    raw = load_task({"train": str(write(tmp_path / "t.csv", delimited(rows(*names))))})
    assert set(raw.class_names) == set(names)
    assert [warning in found for found in raw.warnings] == [True]


@pytest.mark.parametrize(("train", "test"), [(("1", "0"), ("1.0", "0.0")), (("True", "False"), ("true", "false"))])
def test_classes_that_two_files_spell_differently_are_refused(tmp_path, train, test):
    files = {
        name: str(write(tmp_path / f"{name}.csv", delimited(rows(*names))))
        for name, names in (("train", train), ("test", test))
    }
    with pytest.raises(BadRequestError, match="differ in spelling alone: write them alike"):
        load_task(files)


@pytest.mark.parametrize("value", ["1,5", "much", "inf", "nan", "1_000", "True"])
def test_a_number_of_a_regression_that_is_none_is_named(tmp_path, value):
    table = rows("0.5", "1", " 2e0 ")
    task = {"type": "regression", "train": str(write(tmp_path / "t.csv", delimited(table)))}
    assert set(load_task(task).splits["train"]["label"]) == {0.5, 1.0, 2.0}
    write(tmp_path / "t.csv", delimited([*table, ("last", value)]))
    with pytest.raises(BadRequestError, match=rf"holds '{value}': .* finite numbers \(row 151\)"):
        load_task(task)


def test_the_order_of_classes_does_not_depend_on_the_order_of_rows(tmp_path):
    names = ["01", "1", "1 ", "+1"]
    found = {labels(write(tmp_path / "t.csv", delimited(rows(*order)))) for order in (names, names[::-1])}
    assert len(found) == 1


def test_a_prompt_may_name_columns_called_like_fields(tmp_path):
    content = "label,group,y\n" + "\n".join(f"text {i},g{i},{i % 2}" for i in range(100))
    task = {"type": "choice", "prompt": "{label} {group:>6}?", "label": "y", "words": {0: " a", 1: " b"}}
    raw = load_task(task | {"train": str(write(tmp_path / "t.csv", content))})
    assert "text 7     g7?" in {text for frame in raw.splits.values() for text in frame["text"]}
    with pytest.raises(BadRequestError, match=r"no column 'z' for 'prompt \{z\}': available are label, group, y"):
        load_task(task | {"train": str(tmp_path / "t.csv"), "prompt": "{z}"})
    with pytest.raises(
        BadRequestError, match=r"task\.prompt '\{group:\.2f\}' cannot be filled with texts: Unknown format"
    ):
        load_task(task | {"train": str(tmp_path / "t.csv"), "prompt": "{group:.2f}"})


def test_a_name_with_a_tilde_is_no_home_folder(tmp_path, monkeypatch):
    write(tmp_path / "~t.csv", delimited(rows("x", "y")))
    monkeypatch.chdir(tmp_path)
    assert load_task({"train": "~t.csv"}).class_names == ("x", "y")


def test_no_encoding_is_guessed(tmp_path):
    """Every byte is a character of Latin-1, of Cyrillic and of others: only the writer knows."""
    table = [("good film", "x"), ("хороший фильм", "y")]
    with pytest.raises(BadRequestError, match=r"\(byte 0xf5 in line 3 is the first that is not\)") as refused:
        read(write(tmp_path / "t.csv", delimited(table), "cp1251"))
    assert not any(name in str(refused.value) for name in ("Latin", "Windows", "cp1251"))


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("depth", [900, 990, 1_000, 5_000, 100_000])
def test_json_that_is_nested_deeply_is_one_sentence(tmp_path, ending, depth):
    deep = "[" * depth + "]" * depth
    row = f'{{"text": "a", "label": {deep}}}'
    path = write(tmp_path / f"t.{ending}", f"[{row}]" if ending == "json" else f"{row}\n")
    with pytest.raises(BadRequestError, match=r"is nested too deeply \(from line 1\)|holds a list in row 1") as refused:
        labels(path)
    assert "\n" not in str(refused.value)


BEYOND_FLOATS = [str(2**53 + i) for i in range(3)] + [str(2**63 - 1), str(2**63 - 2)]
"""As floats some of these are equal."""


def written(folder, ending, names):
    """A file with these numbers as labels, written as numbers."""
    table = rows(*map(int, names))
    path = folder / f"t.{ending}"
    if ending == "csv":
        return write(path, delimited(table))
    if ending == "parquet":
        pd.DataFrame(table, columns=["text", "label"]).to_parquet(path)
        return path
    found = [{"text": text, "label": label} for text, label in table]
    return write(path, json.dumps(found) if ending == "json" else "\n".join(map(json.dumps, found)))


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_large_whole_numbers_are_different_classes_without_a_warning(tmp_path, ending):
    raw = load_task({"train": str(written(tmp_path, ending, BEYOND_FLOATS))})
    assert raw.class_names == tuple(sorted(BEYOND_FLOATS, key=int))
    assert raw.warnings == ()
    found = pd.concat(raw.splits.values())["label"].value_counts()
    assert found.to_dict() == dict.fromkeys(range(5), 30)


def test_large_whole_numbers_beside_nulls_stay_whole(tmp_path):
    """pandas would read floats."""
    path = tmp_path / "t.parquet"
    pd.DataFrame({"text": ["a", "b"], "label": pd.array([2**53 + 1, None], dtype="Int64")}).to_parquet(path)
    assert read(path) == [("a", 2**53 + 1), ("b", None)]


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
@pytest.mark.parametrize(("one", "other"), [(2**53, 2**53 + 1), (2**24, 2**24 + 1), (-(2**62), -(2**62) + 1)])
def test_numbers_of_a_regression_that_fp32_would_merge_are_refused(tmp_path, ending, one, other):
    task = {"type": "regression", "train": str(written(tmp_path, ending, (one, other)))}
    with pytest.raises(BadRequestError, match=f"holds {one} and {other}, which are one number in the fp32"):
        load_task(task)


def test_numbers_of_a_regression_that_fp32_holds_are_read(tmp_path):
    names = ("16777216", "16777216.0", "1.6777216e7", "33554432", "0.1", "0.10000000001", "-5")
    path = write(tmp_path / "t.csv", delimited(rows(*names)))
    frames = load_task({"type": "regression", "train": str(path)}).splits.values()
    assert set(pd.concat(frames)["label"]) == set(map(float, names))
    write(path, delimited(rows("1", "1e39")))
    with pytest.raises(BadRequestError, match="holds 1e39, which is infinite in the fp32"):
        load_task({"type": "regression", "train": str(path)})


@pytest.mark.parametrize(
    ("header", "near"),
    [
        (("Text", "Label"), "available are Text, Label; did you mean 'Text'?"),
        (("TEXT", "label"), "available are TEXT, label; did you mean 'TEXT'?"),
        (("texts", "label"), "did you mean 'texts'?"),
        (("review_text", "label"), "did you mean 'review_text'?"),
        (("body", "label"), "available are body, label$"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_column_that_is_missing_names_the_nearest(tmp_path, ending, header, near):
    table = pd.DataFrame(rows("x", "y"), columns=list(header))
    path = tmp_path / f"t.{ending}"
    {
        "csv": lambda p: table.to_csv(p, index=False),
        "jsonl": lambda p: table.to_json(p, orient="records", lines=True),
    }.get(ending, table.to_parquet)(path)
    with pytest.raises(BadRequestError, match=near.replace("?", r"\?")):
        read(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("https://example.org/train.csv", "is a URL, and data are read from local files only: download it"),
        ("s3://bucket/train.csv", "is a URL, .* download it and pass the path of the file"),
        ("file:///data/train.csv", "is a URL, .* pass its path without file://"),
        ("folder", r"is a folder: pass the path of a file in it \(my_train.csv, a.parquet, b.csv\)"),
        ("empty", "is a folder: it holds no .jsonl, .json, .csv, .tsv, .parquet file"),
        ("nowhere.csv", "does not exist: pass the path of a file"),
    ],
)
def test_what_is_no_file_is_called_what_it_is(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a.parquet", "b.csv", "my_train.csv", "notes.md"):
        write(tmp_path / "folder" / name, "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRequestError, match=message):
        load_task({"train": given})
    if given != "nowhere.csv":  # a further test may be missing, but not be something else
        train = str(write(tmp_path / "t.csv", delimited(rows("x", "y"))))
        with pytest.raises(BadRequestError, match=message.replace("my_train.csv, a.parquet", "a.parquet")[:25]):
            load_task({"train": train, "further_tests": {"other": given}})


def test_a_test_file_that_is_the_training_file_is_warned_about(tmp_path):
    train = str(write(tmp_path / "train.csv", delimited(rows("x", "y"))))
    copy = str(write(tmp_path / "copy.csv", delimited(rows("x", "y"))))
    raw = load_task({"train": train, "validation": copy, "test": train})
    for split in ("validation", "test"):
        assert f"the {split} data are all in the training data too (150 rows)" in "\n".join(raw.warnings)
    assert len(raw.warnings) == 2


def test_rows_that_two_files_share_are_counted_whatever_their_labels(tmp_path):
    table = rows("x", "y")
    others = [(f"another film {i}", "x") for i in range(10)]
    shared = [("Film  number 0 was fine", "y"), *table[1:3]]
    files = {"train": table, "test": [*others, *shared], "other": [*others, table[7]], "new": others}
    paths = {name: str(write(tmp_path / f"{name}.csv", delimited(content))) for name, content in files.items()}
    further = {name: paths[name] for name in ("other", "new")}
    raw = load_task({"train": paths["train"], "test": paths["test"], "further_tests": further})
    assert [warning.partition(" in training too")[0] for warning in raw.warnings] == [
        "3 of 13 rows of the test data stand",
        "1 of 11 rows of the test_other data stands",
    ]


def test_two_texts_are_shared_only_together(tmp_path):
    def pairs(first, second):
        lines = [f"{first} {i},{second} {i},{'xy'[i % 2]}" for i in range(50)]
        return "\n".join(["a,b,label", *lines])

    columns = {"text": "a", "text_pair": "b"}
    train = str(write(tmp_path / "train.csv", pairs("one", "two")))
    for name, content, warnings in (("other", pairs("one", "three"), 0), ("same", pairs("one", "two"), 1)):
        test = str(write(tmp_path / f"{name}.csv", content))
        assert len(load_task({"train": train, "test": test, **columns}).warnings) == warnings
