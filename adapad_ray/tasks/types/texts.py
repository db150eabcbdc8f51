"""The base of types that read one or two texts."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd

from adapad_ray.tasks.data.columns import as_text, require_columns
from adapad_ray.tasks.data.tables import table_of
from adapad_ray.tasks.encoding.assumed import AssumedSplit
from adapad_ray.tasks.encoding.texts import assumed_texts, check_length, encode_texts
from adapad_ray.tasks.logits import evaluate_logits
from adapad_ray.tasks.rows import RowTask
from adapad_ray.tasks.source import TextSource
from adapad_ray.tasks.task_data import Evaluated, Passes, RawTask, Split, TaskData

TextSourceT = TypeVar("TextSourceT", bound=TextSource)


class TextTask(RowTask[TextSourceT]):
    """One or two texts in, one row of outputs out."""

    auto_class: ClassVar[str | None] = "AutoModelForSequenceClassification"
    label_type: ClassVar[type[np.generic]]

    def check_reader(self, raw: RawTask, reader: Any, max_length: int) -> None:
        """Texts must fit beside the tokenizer's own tokens."""
        check_length(reader, max_length, pair="text_pair" in raw.splits["train"])

    def encode_split(self, raw: RawTask, frame: pd.DataFrame, split: str, reader: Any, max_length: int) -> Split:
        """Token sequences, cut to `max_length`."""
        return encode_texts(frame, reader, max_length, self.label_type)

    def evaluate(self, data: TaskData, passes: Passes, splits: list[str]) -> dict[str, Evaluated]:
        """Outputs `[items, outputs]`."""
        return evaluate_logits(data, passes, splits)

    def assume_split(self, source: TextSourceT, count: int, max_length: int, reader: Any) -> AssumedSplit:
        """Texts of `max_length` tokens."""
        return assumed_texts(count, max_length, np.zeros((), dtype=self.label_type))


def select_texts(table: pd.DataFrame, source: TextSource, split: str) -> pd.DataFrame:
    """`text` and `text_pair` as strings.

    Raises:
        BadRequestError: a column that the source names is missing, empty in some rows, or holds no texts.
    """
    require_columns(table, source.columns(), split)
    columns = {"text": source.text, "text_pair": source.text_pair}
    return table_of({name: as_text(table[column], column, split) for name, column in columns.items() if column})
