"""What a first sweep file can be about: texts with labels, or conversations. Each says what it reads, and how much."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from adapad_ray.draft.yaml_text import comment
from adapad_ray.tasks import SplitSize
from adapad_ray.tasks.data.chat_columns import ChatShape, conversations_in
from adapad_ray.tasks.data.columns import number_of, sort_classes
from adapad_ray.tasks.data.conversations import holds_messages
from adapad_ray.tasks.data.guessed_columns import GuessedColumns, guess_columns
from adapad_ray.wording import listed


@dataclass(frozen=True)
class Subject(ABC):
    """The rows of a file, as a task reads them."""

    table: pd.DataFrame

    model: ClassVar[str]
    """The packaged model for those who name none."""
    shortest: ClassVar[int]
    """Tokens of a row for which there is always room, where the model reads so many."""
    longest: ClassVar[int]
    """Most tokens of a row that the first sweep reads."""
    caps: ClassVar[Mapping[str, int]]
    """Rows of a split that the first sweep uses at most."""
    seeds: ClassVar[tuple[int, ...]]

    @property
    @abstractmethod
    def type(self) -> str:
        """The task's."""

    @abstractmethod
    def source(self, reader: Any) -> dict[str, str]:
        """The fields of `task` beside its files.

        Args:
            reader: the model's tokenizer.
        """

    @abstractmethod
    def comments(self) -> dict[str, str]:
        """Comments on these fields, by name."""

    @property
    @abstractmethod
    def others(self) -> list[str]:
        """The columns that are not read."""

    @property
    @abstractmethod
    def sentence(self) -> str:
        """What is read, and what is predicted."""


@dataclass(frozen=True)
class Labelled(Subject):
    """Texts with a class or a number."""

    columns: GuessedColumns

    model: ClassVar = "minilm-l6"
    shortest: ClassVar = 16
    longest: ClassVar = 256
    caps: ClassVar = {"max_train_examples": 2000, "max_validation_examples": 500, "max_test_examples": 1000}
    seeds: ClassVar = (0, 1, 2)

    @property
    def type(self) -> str:
        """Classification or regression."""
        return self.columns.type

    def source(self, reader: Any) -> dict[str, str]:
        """Type and columns."""
        return {"type": self.type, "text": self.columns.text, "label": self.columns.label}

    def comments(self) -> dict[str, str]:
        """The first text, and the classes with their rows, or the range of the numbers."""
        texts = self.table[self.columns.text].dropna()
        example = comment(texts.iloc[0]) if len(texts) else ""
        return {
            "type": "a guess, as the columns are: check them",
            "text": f"the first: {example}",
            "label": self._labels(),
        }

    @property
    def others(self) -> list[str]:
        """All columns but two."""
        return list(self.columns.others)

    @property
    def sentence(self) -> str:
        """As in `classification of column 'stars' from the texts of column 'review'`."""
        columns = self.columns
        return f"{columns.type} of column {columns.label!r} from the texts of column {columns.text!r}"

    def _labels(self) -> str:
        values = self.table[self.columns.label].dropna().astype(str)
        if self.columns.type == "regression":
            numbers = [number_of(value) or 0.0 for value in values]
            return f"numbers from {min(numbers):g} to {max(numbers):g}"
        counts = values.value_counts()
        classes = {comment(name): int(counts[name]) for name in sort_classes(set(values))}
        return SplitSize(len(values), classes).classes_in_words


@dataclass(frozen=True)
class Conversations(Subject):
    """Messages, prompts with completions, or instructions with outputs."""

    shape: ChatShape

    model: ClassVar = "smollm2-135m"
    shortest: ClassVar = 128
    longest: ClassVar = 512
    caps: ClassVar = {"max_train_examples": 500, "max_validation_examples": 100, "max_test_examples": 200}
    seeds: ClassVar = (0,)
    type: ClassVar = "chat"

    def source(self, reader: Any) -> dict[str, str]:
        """Columns are found by their names; a model without a chat template gets the plain one."""
        own = getattr(reader, "chat_template", None) is not None
        return {"type": "chat"} if own else {"type": "chat", "chat_template": "plain"}

    def comments(self) -> dict[str, str]:
        """The columns, the first question, and why there is a template."""
        column = next(iter(self._read))
        first: Any = next(iter(self.table[column].dropna()), "")
        shown = first[0].get("content", first[0].get("value", "")) if holds_messages(first) else first
        return {
            "type": f"of the columns {listed(self._read)}; the first: {comment(shown)}",
            "chat_template": "the model has none of its own",
        }

    @property
    def others(self) -> list[str]:
        """All columns but those of the shape."""
        return [name for name in map(str, self.table.columns) if name not in self._read]

    @property
    def sentence(self) -> str:
        """As in `chat of the columns prompt, completion`."""
        return f"chat of the columns {listed(self._read)}"

    @property
    def _read(self) -> list[str]:
        return [column for column in self.shape.columns().values() if column is not None]


def subject_of(table: pd.DataFrame, *, text: str | None, label: str | None) -> Subject:
    """Conversations, where columns have their names and none is known; else texts and labels.

    Args:
        text: the column of texts, if it is known.
        label: the column of labels, if it is known.

    Raises:
        BadRequestError: no column is possible, or a known one does not exist.
    """
    shape = None if text or label else conversations_in(table)
    return (
        Labelled(table, guess_columns(table, text=text, label=label)) if shape is None else Conversations(table, shape)
    )
