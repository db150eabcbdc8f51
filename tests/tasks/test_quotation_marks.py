"""Quotation marks of CSV and TSV files: what they enclose is read, and what they may have swallowed is said."""

import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import load_task
from adapad_ray.tasks.data.files import read_files


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def read(path):
    """Rows of the file's text and label, and what was warned about."""
    table = read_files("t", {"train": str(path)}, {"text": "text", "label": "label"}).splits["train"]
    return [tuple(row) for row in table.itertuples(index=False)], table.attrs.get("warnings", [])


def swallowing(separator, name, blank=False):
    """150 rows with a pair of quotation marks over two of them, in lines 22 and 23 (or 24)."""
    lines = [f"{name(i)}{separator}film {i}" for i in range(150)]
    lines[20] = f'{name(20)}{separator}"film 20' + "\n" * blank
    lines[21] += '"'
    return [f"label{separator}text", *lines]


def test_a_quoted_column_without_a_quoted_header_is_unquoted(tmp_path):
    quoted = ["text\tlabel", *(f'"film {i}"\t"{i % 2}"' for i in range(100))]
    plain = ["text\tlabel", *(f"film {i}\t{i % 2}" for i in range(100, 200))]
    train, test = write(tmp_path / "train.tsv", quoted), write(tmp_path / "test.tsv", plain)
    assert read(train) == ([(f"film {i}", str(i % 2)) for i in range(100)], [])
    assert read(test) == ([(f"film {i}", str(i % 2)) for i in range(100, 200)], [])
    raw = load_task({"train": str(train), "test": str(test)})
    assert raw.class_names == ("0", "1") and not raw.warnings


def test_values_that_keep_quotation_marks_are_said(tmp_path):
    lines = ["text\tlabel", *(f'film {i}\t"{i % 2}"' for i in range(99)), "film 99\t1"]
    found, warnings = read(write(tmp_path / "t.tsv", lines))
    assert found[0] == ("film 0", '"0"') and found[99] == ("film 99", "1")
    assert [w.split(", because")[0] for w in warnings] == [
        "99 of 100 values of column 'label' keep the quotation marks around them, such as \"0\""
    ]


def test_quotation_marks_inside_texts_are_not_warned_about(tmp_path):
    found, warnings = read(write(tmp_path / "t.tsv", ["text\tlabel", 'a "good" film\tx', '"bad" film\ty']))
    assert found == [('a "good" film', "x"), ('"bad" film', "y")] and not warnings


def test_a_quoted_column_beside_marks_that_are_not_doubled_is_refused(tmp_path):
    path = write(tmp_path / "t.tsv", ["text\tlabel", '"bad" film\t"0"', 'good film\t"1"'])
    with pytest.raises(BadRequestError, match="closed in line 2 before its field ends"):
        read(path)


@pytest.mark.parametrize("third", [['""'] * 3, ['""', "note", ""]])
def test_an_empty_text_in_quotation_marks_shows_that_fields_are_quoted(tmp_path, third):
    lines = ["text\tlabel\tnote", *(f'"say ""hi"" {i}"\t{i % 2}\t{note}' for i, note in enumerate(third))]
    lines.append('plain\t1\t""')
    rows = [(f'say "hi" {i}', str(i % 2)) for i in range(3)]
    assert read(write(tmp_path / "t.tsv", lines)) == ([*rows, ("plain", "1")], [])


@pytest.mark.parametrize(("classes", "blank"), [(2, False), (2, True), (20, False), (20, True)])
def test_rows_whose_classes_are_known_are_not_swallowed(tmp_path, classes, blank):
    def name(i):
        return f"c{i % classes}"

    with pytest.raises(BadRequestError, match=rf"in line 22 that is closed in line {23 + blank}, and each of these"):
        read(write(tmp_path / "t.csv", swallowing(",", name, blank)))
    found, warnings = read(write(tmp_path / "t.tsv", swallowing("\t", name, blank)))
    assert len(found) == 150 and found[20] == ('"film 20', name(20)) and not warnings


@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("blank", [False, True])
@pytest.mark.parametrize("name", ["c{}".format, lambda i: f"{i / 7:.3f}", lambda i: f"c{i % 60}"])
def test_rows_that_may_be_swallowed_are_said(tmp_path, ending, blank, name):
    path = write(tmp_path / f"t.{ending}", swallowing("," if ending == "csv" else "\t", name, blank))
    found, warnings = read(path)
    assert len(found) == 149
    assert [w.split("; ")[0] for w in warnings] == [
        f"lines 22 to {23 + blank} are read as one value because of quotation marks"
    ]


def test_warnings_of_files_are_those_of_the_task(tmp_path):
    path = write(tmp_path / "t.csv", swallowing(",", lambda i: f"{i / 7:.3f}"))
    (warning,) = load_task({"type": "regression", "train": str(path)}).warnings
    assert warning.startswith("train data: lines 22 to 23 are read as one value")


def test_a_rare_class_may_be_swallowed(tmp_path):
    lines = swallowing(",", lambda i: "c10" if i == 21 else f"c{i % 2}")
    assert "lines 22 to 23 are read as one value" in read(write(tmp_path / "t.csv", lines))[1][0]


def test_one_warning_counts_all_places(tmp_path):
    lines = ["text,label", *(line for i in range(3) for line in (f'"one {i},x{i}', f'two {i}",y{i}'))]
    found, warnings = read(write(tmp_path / "t.csv", lines))
    assert len(found) == 3 and len(warnings) == 1
    assert "lines 2 to 3 are read" in warnings[0] and "(so are 2 more groups of lines)" in warnings[0]


def test_a_line_with_quoted_fields_is_a_row_too(tmp_path):
    path = write(tmp_path / "t.csv", ["label,note,text", 'a,"x, y","film 1', 'b,x,film 2"'])
    assert "lines 2 to 3" in read(path)[1][0]


@pytest.mark.parametrize("label", [lambda i: i % 2, lambda i: i / 7, "answer {}".format])
@pytest.mark.parametrize(
    "text", ["Dear {},\nmany thanks", "Well, {}\n\nit is good", "first {}\nsecond\nthird", "a, b, {}\nc", "{}\nx, y\nz"]
)
def test_a_text_of_several_lines_is_no_swallowed_row(tmp_path, text, label):
    table = [((text if i % 2 else "short {}").format(i), str(label(i))) for i in range(60)]
    path = write(tmp_path / "t.csv", ["text,label", *(f'"{text}",{label}' for text, label in table)])
    assert read(path) == (table, [])
    path = write(tmp_path / "t2.csv", ["label,text", *(f'{label},"{text}"' for text, label in table)])
    assert read(path) == (table, [])
