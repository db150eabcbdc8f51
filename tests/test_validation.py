"""Errors of pydantic models become one sentence: which key, which value, what would be right."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

from adapad_ray.errors import BadRequestError
from adapad_ray.validation import SECRET, validated


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    length: int = Field(default=1, ge=1)
    width: int = 1


class Whole(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    part: Part | str = Part()
    parts: dict[str, Part] = {}
    kind: Literal["curve", "search"] = "curve"
    password: str = ""

    @field_validator("password")
    @classmethod
    def _holds_no_secret(cls, password: str) -> str:
        if password:
            raise PydanticCustomError(SECRET, "leave it out")
        return password


class Outer(BaseModel):
    inner: Any = None

    @field_validator("inner")
    @classmethod
    def _is_validated(cls, value: Any) -> Any:
        return validated(Whole, value, "inner")


def message(content: Any, where: str = "", model: type[BaseModel] = Whole, **options: Any) -> str:
    with pytest.raises(BadRequestError) as caught:
        validated(model, content, where, **options)
    return str(caught.value)


def test_valid_content_becomes_the_model():
    assert validated(Whole, {"name": "a", "part": {"length": 2}}).part == Part(length=2)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"name": "a", "knid": 1}, "knid is unknown: did you mean kind?"),
        ({"name": "a", "part": {"lenght": 1}}, "part.lenght is unknown: did you mean length?"),
        ({"name": "a", "parts": {"x": {"widht": 1}}}, "parts.x.widht is unknown: did you mean width?"),
        ({"name": "a", "parts": {"x": {"zzz": 1}}}, "parts.x.zzz is unknown: known are length, width"),
        ({"name": "a", "parts": {"x": {"length": 0}}}, "parts.x.length is 0: input should be greater than or equal"),
        (
            {"name": "a", "kind": "serach"},
            "kind is 'serach': input should be 'curve' or 'search'; did you mean search?",
        ),
        ({"name": 3.5}, "name is 3.5: input should be a valid string; write it in quotes"),
        ({"name": True}, "name is True: input should be a valid string; write it in quotes"),
        ({}, "name is missing"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_first_problem_is_named(content, expected):
    assert message(content).startswith(expected)


def test_a_union_branch_is_no_part_of_the_key():
    assert message({"name": "a", "part": {"length": 0}}).startswith("part.length is 0: ")


def test_where_precedes_the_key():
    assert message({"naem": "a", "name": "b"}, "task") == "task.naem is unknown: did you mean name?"
    assert message([], "task") == "task: input should be a mapping, as {name: value}"


def test_a_missing_field_may_be_explained():
    assert message({}, missing="every sweep needs one") == "name is missing: every sweep needs one"


def test_names_beside_the_fields_are_suggested():
    assert message({"name": "a", "budgts": 1}, more_fields=["budgets"]) == "budgts is unknown: did you mean budgets?"


def test_a_secret_is_not_repeated():
    assert message({"name": "a", "password": "hush"}) == "password: leave it out"


def test_a_nested_message_names_its_key_once():
    assert message({"inner": {"naem": 1, "name": "a"}}, model=Outer) == "inner.naem is unknown: did you mean name?"


def test_control_characters_are_replaced_and_long_values_cut():
    shown = message({"name": "a", "k\x1b[31m\n": 1})
    assert shown.isprintable()
    assert len(message({"name": ["x" * 5000]})) < 500


def test_true_is_no_number():
    assert message({"name": "a", "part": {"length": True}}) == "part.length is True: input should be a number, not true"
    assert message({"name": "a", "parts": {"x": {"width": False}}}, "task").startswith("task.parts.x.width is False")


def test_a_whole_number_is_text_where_text_is_wanted():
    assert validated(Whole, {"name": 2024}).name == "2024"


def test_a_name_that_belongs_elsewhere_gets_its_full_key():
    shown = message({"name": "a", "epochs": 1}, elsewhere={"epochs": "training.epochs"})
    assert shown == "epochs is unknown: did you mean training.epochs?"
