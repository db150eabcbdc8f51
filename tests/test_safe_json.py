"""A damaged or hostile JSON file is one sentence that names it."""

import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.safe_json import read_object


def test_an_object_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2.5, null]}')
    assert read_object(path, "a.json") == {"a": [1, 2.5, None]}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"{", "a.json of model 'x' is not valid JSON: Expecting property name"),
        (b"[]", "a.json of model 'x' must hold one JSON object, not a list"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is not valid JSON: it is nested too deeply"),
        (b'{"a": "\xcf"}', "is not valid JSON: 'utf-8' codec"),
        (b'{"a": "' + b"a" * 100 + b'"}', "has 109 bytes, more than the 100 that are read"),
    ],
)
def test_everything_else_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(BadRequestError, match=message) as error:
        read_object(path, "a.json of model 'x'", 10**6 if b"[[" in content else 100)
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(BadRequestError, match=r"a\.json cannot be read: No such file"):
        read_object(tmp_path / "a.json", "a.json")
