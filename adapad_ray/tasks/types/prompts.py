"""The base of types for causal language models: a prompt made of columns, and an answer."""

from __future__ import annotations

import string
from typing import Any, ClassVar, TypeVar

import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.columns import as_text, require_columns, with_group
from adapad_ray.tasks.data.tables import Columns
from adapad_ray.tasks.encoding.assumed import AssumedSplit
from adapad_ray.tasks.encoding.prompts import assumed_prompts
from adapad_ray.tasks.losses import answer_cross_entropy
from adapad_ray.tasks.rows import RowTask
from adapad_ray.tasks.source import DataSource


class PromptSource(DataSource):
    """A prompt made of columns."""

    prompt: str
    """What the model reads, with columns in braces: `"{passage}\\nQuestion: {question}\\nAnswer:"`."""

    def columns(self) -> Columns:
        """The columns in braces, and the group."""
        return {f"prompt {{{name}}}": name for name in self.in_braces()} | super().columns()

    def in_braces(self) -> list[str]:
        """The columns that the prompt names, each once.

        Raises:
            BadRequestError: the prompt is no template, or names no column.
        """
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(self.prompt) if name is not None]
        except ValueError as error:
            raise BadRequestError(f"task.prompt {self.prompt!r} is no template: {error}") from error
        if not names:
            raise BadRequestError(
                f"task.prompt {self.prompt!r} names no column: put columns in braces, as {{question}}"
            )
        return list(dict.fromkeys(names))


PromptSourceT = TypeVar("PromptSourceT", bound=PromptSource)


class PromptTask(RowTask[PromptSourceT]):
    """Answers of a causal language model without a task head; the loss is on the answers only."""

    auto_class: ClassVar[str | None] = "AutoModelForCausalLM"
    loss = staticmethod(answer_cross_entropy)
    can_pack_sequences: ClassVar[bool] = True

    def outputs(self, class_names: tuple[str, ...]) -> int:
        """None: the model has no task head."""
        return 0

    def assume_split(self, source: PromptSourceT, count: int, max_length: int, reader: Any) -> AssumedSplit:
        """Prompts of `max_length` tokens, answer included."""
        return assumed_prompts(count, max_length)


def fill_prompts(table: pd.DataFrame, source: PromptSource, split: str) -> pd.DataFrame:
    """The prompts, as `text`.

    Raises:
        BadRequestError: the prompt is no template for texts, or a column is missing, empty in some rows or holds none.
    """
    require_columns(table, source.columns(), split)
    columns = {name: as_text(table[name], name, split) for name in source.in_braces()}
    try:
        filled = [
            source.prompt.format_map(dict(zip(columns, row, strict=True)))
            for row in zip(*columns.values(), strict=True)
        ]
    except (ValueError, LookupError, AttributeError) as error:
        raise BadRequestError(f"task.prompt {source.prompt!r} cannot be filled with texts: {error}") from error
    return with_group(pd.DataFrame({"text": filled}), table, source.group, split)
