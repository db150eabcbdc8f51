"""YAML as people write it: text stays text, a key stands once, and an error has its line."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from adapad_ray.errors import BadRequestError
from adapad_ray.safe_yaml import read_yaml, write_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("no", "yes", "on", "off", "NO", "y", "n", "1:30", "2026-01-01", "=", "1e5abc")),
        *((number, number) for number in ("010", "007", "0o10", "1_", "0b1", "+", "1.2.3", "nan", "inf")),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, None) for word in ("", "~", "null", "Null")),
        ("10_000", 10_000),
        ("+5", 5),
        ("0x1F", 31),
        ("2e-3", 0.002),
        (".5E-3", 0.0005),
        ("1.", 1.0),
        ("-.inf", float("-inf")),
        ("'1'", "1"),
    ],
)
def test_a_plain_value_is_what_yaml_1_2_says(text, value):
    if text == "1_":
        value = 1
    read = read_yaml(f"a: {text}", "f")["a"]
    assert read == value and type(read) is type(value)


def test_keys_are_text_as_written():
    assert read_yaml("{null: 1, 01: 2, 1.10: 3, true: 4, No: 5, 2026-01-01: 6}", "f") == {
        "null": 1,
        "01": 2,
        "1.10": 3,
        "true": 4,
        "No": 5,
        "2026-01-01": 6,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"f has the key a twice \(lines 1 and 3\): remove one"),
        ("methods:\n  lora: {}\n  lora: {rank: 2}", r"the key methods.lora twice \(lines 2 and 3\)"),
        ("a: {b: {c: 1, d: 2, c: 3}}", r"the key a.b.c twice \(line 1\)"),
        ("a:\n- x: 1\n- x: 2\n  x: 3", r"the key a.x twice \(lines 3 and 4\)"),
        ("{0: a, '0': b}", r"the key 0 twice"),
        ("x: &x {a: 1, a: 2}\ny: *x", r"the key x.a twice"),
        ("a: {<<: {b: 1}, <<: {c: 2}}", r"the key a.<< twice \(line 1\): remove one and write <<: \[\*a, \*b\]"),
        ("? [a]\n: 1", "f, line 1: a key is a single word or number"),
        ("a:\n\t- b", "f is not valid YAML: line 2, column 1: a tab: indent with spaces"),
        ("a: 1\n---\nb: 2", r"f is not valid YAML: line 2, column 1: a second document begins here \(---\)"),
        ("a: [1", "f is not valid YAML: line 1, column 6: expected ',' or ']'"),
        ("a: *x", "line 1, column 4: found undefined alias 'x'"),
        ("a: b: c", "line 1, column 5: mapping values are not allowed here"),
    ],
)
def test_a_mistake_is_named_with_its_place(text, message):
    with pytest.raises(BadRequestError, match=message):
        read_yaml(text, "f")


def test_merged_keys_may_be_overridden():
    text = "x: &x {a: 1, b: 2}\ny: {<<: *x, a: 5}\nz: {<<: [*x, {b: 3, c: 4}], d: 5}"
    content = read_yaml(text, "f")
    assert content["y"] == {"a": 5, "b": 2}
    assert content["z"] == {"a": 1, "b": 2, "c": 4, "d": 5}


def test_a_byte_order_mark_and_marks_of_the_document_are_no_content():
    assert read_yaml("\ufeff---\na: 1\n...\n", "f") == {"a": 1}
    assert read_yaml("# nothing\n", "f") is None


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False)
    | st.from_regex(r"[-+.0-9eEx_:nNoOyYtT~]{0,8}", fullmatch=True)
    | st.sampled_from(["no", "true", "null", "0o10", "2e-3", "1e5", "=", "<<", "01", "2026-01-01", ".inf"])
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8)
)
KEYS = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, LEAVES | st.lists(LEAVES)))
def test_what_is_written_is_read_back(content):
    text = write_yaml(content)
    assert read_yaml(text, "f") == content
    for key, value in yaml.safe_load(text).items():  # other readers see the same text
        if isinstance(content.get(key), str):
            assert value == content[key]
