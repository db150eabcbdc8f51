"""The three shapes in which data sets hold conversations: messages, prompt and completion, instructions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.answers import acceptable_answers
from adapad_ray.tasks.data.columns import as_text, require_columns, text_of
from adapad_ray.tasks.data.conversations import (
    Conversation,
    Message,
    Place,
    check_turns,
    holds_messages,
    read_messages,
    without_last_answer,
)
from adapad_ray.tasks.data.tables import Columns
from adapad_ray.wording import listed

MESSAGES = ("messages", "conversations")
"""Usual names of a column of whole conversations."""


class ChatRow(NamedTuple):
    """A conversation that ends with an answer, as a row holds it."""

    conversation: Conversation
    gold: tuple[str, ...]
    """Acceptable last answers; the first is the conversation's own."""
    place: Place
    used_tools: bool
    """Whether turns of tools were left out."""


class ChatShape(Protocol):
    """How the columns of a table hold conversations."""

    @property
    def answer(self) -> str | None:
        """The column of right answers; None where they stand in the conversations."""

    def columns(self) -> Columns:
        """Field of the task → column."""

    def rows(self, table: pd.DataFrame, split: str, no_answer: str) -> Iterator[ChatRow]:
        """The conversations of a split.

        Raises:
            BadRequestError: a column is missing, or a row holds none.
        """

    def unanswered(self, table: pd.DataFrame, split: str) -> pd.DataFrame:
        """The table with a stand-in for every last answer, whether or not it has one."""


@dataclass(frozen=True)
class Messages:
    """A column of whole conversations."""

    column: str
    answer: None = None

    def columns(self) -> Columns:
        """The only one."""
        return {"messages": self.column}

    def rows(self, table: pd.DataFrame, split: str, no_answer: str) -> Iterator[ChatRow]:
        """Conversations; the last turn is the acceptable answer."""
        require_columns(table, self.columns(), split)
        for number, value in enumerate(table[self.column], 1):
            place = Place(self.column, split, number)
            conversation, used_tools = read_messages(value, place)
            check_turns(conversation, place)
            yield ChatRow(conversation, (conversation[-1].content,), place, used_tools)

    def unanswered(self, table: pd.DataFrame, split: str) -> pd.DataFrame:
        """Conversations whose last answer, where they end with one, is replaced."""
        require_columns(table, self.columns(), split)
        asked = []
        for number, value in enumerate(table[self.column], 1):
            conversation, _ = read_messages(value, Place(self.column, split, number))
            asked.append([message._asdict() for message in (*without_last_answer(conversation), _STAND_IN)])
        return table.assign(**{self.column: pd.Series(asked, index=table.index, dtype=object)})


@dataclass(frozen=True)
class Pairs:
    """Columns of a question, whose texts are joined by a blank line, and a column of its answers."""

    asked: Mapping[str, str]
    """Field → column; only the first may not be empty."""
    answer_field: str
    answer: str

    def columns(self) -> Columns:
        """Those of the question, and of the answer."""
        return {**self.asked, self.answer_field: self.answer}

    def rows(self, table: pd.DataFrame, split: str, no_answer: str) -> Iterator[ChatRow]:
        """Conversations of one question, unless question or answer are lists of messages themselves."""
        first, *others = self.asked.items()
        require_columns(table, {first[0]: first[1], self.answer_field: self.answer}, split)
        require_columns(table.head(0), dict(others), split)
        further = [_optional(table[column], column, split) for _, column in others]
        for number, (question, value, *rest) in enumerate(
            zip(table[first[1]], table[self.answer], *further, strict=True), 1
        ):
            place, answered = Place(first[1], split, number), Place(self.answer, split, number)
            asked, asked_tools = _question(question, rest, place)
            if holds_messages(value):
                said, used_tools = read_messages(value, answered)
                conversation = (*asked, *said)
                check_turns(conversation, answered)
                gold: tuple[str, ...] = (conversation[-1].content,)
            else:
                gold, used_tools = acceptable_answers(value, answered, no_answer), False
                conversation = (*asked, Message("assistant", gold[0]))
                check_turns(conversation, answered)
            yield ChatRow(conversation, gold, place, asked_tools or used_tools)

    def unanswered(self, table: pd.DataFrame, split: str) -> pd.DataFrame:
        """Questions without acceptable answers."""
        return table.assign(**{self.answer: pd.Series([[]] * len(table), index=table.index, dtype=object)})


_STAND_IN = Message("assistant", "?")


def find_shape(columns: Sequence[str]) -> ChatShape:
    """The shape of a table with these columns, by their names.

    Raises:
        BadRequestError: none of the usual names is among them.
    """
    if (shape := _usual_shape(columns)) is None:
        raise BadRequestError(
            f"the data have the columns {listed(columns)}, and none of the usual ones of conversations: name them as "
            "task.messages, as task.prompt and task.completion, or as task.instruction, task.input and task.output"
        )
    return shape


def conversations_in(table: pd.DataFrame) -> ChatShape | None:
    """How a table holds conversations, if it has all columns of a shape by their usual names."""
    columns = list(map(str, table.columns))
    shape = _usual_shape(columns)
    if shape is None or not all(column in columns for column in shape.columns().values()):
        return None
    if isinstance(shape, Messages) and not table[shape.column].map(holds_messages).any():
        return None  # texts that are called so
    return shape


def _usual_shape(columns: Sequence[str]) -> ChatShape | None:
    for name in MESSAGES:
        if name in columns:
            return Messages(name)
    if "prompt" in columns:
        return Pairs({"prompt": "prompt"}, "completion", "completion")
    if "instruction" in columns:
        answer, context = ("output", "input") if "response" not in columns else ("response", "context")
        asked = {"instruction": "instruction"} | ({"input": context} if context in columns else {})
        return Pairs(asked, "output", answer)
    return None


def _optional(values: pd.Series, column: str, split: str) -> list[str]:
    """Texts, empty where there is no value."""
    missing = values.isna().tolist()
    return [
        "" if empty else text_of(value, column, split, row)
        for row, (value, empty) in enumerate(zip(values, missing, strict=True), 1)
    ]


def _question(value: Any, rest: Sequence[str], place: Place) -> tuple[Conversation, bool]:
    if holds_messages(value):
        return read_messages(value, place)
    (text,) = as_text(pd.Series([value], dtype=object), place.column, place.split)
    if not text.strip():
        raise place.refuse("an empty text", "drop such rows")
    return (Message("user", "\n\n".join(part for part in (text, *rest) if part.strip())),), False
