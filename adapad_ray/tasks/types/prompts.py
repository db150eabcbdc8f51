"""The base of types for causal language models: a prompt made of columns, and an answer."""

from __future__ import annotations

import string
from typing import Any, ClassVar, TypeVar

import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.columns import require_columns, with_group
from adapad_ray.tasks.encoding.assumed import AssumedSplit
from adapad_ray.tasks.encoding.prompts import assumed_prompts
from adapad_ray.tasks.losses import answer_cross_entropy
from adapad_ray.tasks.rows import RowTask
from adapad_ray.tasks.source import DataSource


class PromptSource(DataSource):
    """A prompt made of columns."""

    prompt: str
    """What the model reads, with columns in braces: `"{passage}\\nQuestion: {question}\\nAnswer:"`."""


PromptSourceT = TypeVar("PromptSourceT", bound=PromptSource)


class PromptTask(RowTask[PromptSourceT]):
    """Answers of a causal language model without a task head; the loss is on the answers only."""

    auto_class: ClassVar[str | None] = "AutoModelForCausalLM"
    loss = staticmethod(answer_cross_entropy)

    def outputs(self, class_names: tuple[str, ...]) -> int:
        """None: the model has no task head."""
        return 0

    def assume_split(self, source: PromptSourceT, count: int, max_length: int, reader: Any) -> AssumedSplit:
        """Prompts of `max_length` tokens, answer included."""
        return assumed_prompts(count, max_length)


def fill_prompts(table: pd.DataFrame, source: PromptSource, split: str, **columns: str) -> pd.DataFrame:
    """The prompts, as `text`.

    Args:
        table: the rows of one split.
        source: the user's description.
        split: for messages.
        columns: further columns that are needed, by the field that names them.

    Raises:
        BadRequestError: the prompt is no template, or a column is missing or empty in some rows.
    """
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(source.prompt) if name is not None]
    except ValueError as error:
        raise BadRequestError(f"task.prompt {source.prompt!r} is no template: {error}") from error
    if not names:
        raise BadRequestError(f"task.prompt {source.prompt!r} names no column: put columns in braces, as {{question}}")
    require_columns(table, {name: name for name in names} | columns | {"group": source.group}, split)
    filled = [source.prompt.format_map(row) for row in table[list(dict.fromkeys(names))].to_dict("records")]
    return with_group(pd.DataFrame({"text": filled}), table, source.group)
