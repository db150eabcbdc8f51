"""Prompts and answers for causal language models: sequences, padded on the left so that all answers end together."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.base import AssumedSplit, AutoClass, TaskType, require_columns, with_group
from adapad_ray.tasks.encoding.texts import TokenSequences, end_to_end
from adapad_ray.tasks.losses import IGNORED
from adapad_ray.tasks.source import DataSource

if TYPE_CHECKING:
    import torch


class PromptSource(DataSource):
    """A prompt made of columns."""

    prompt: str
    """What the model reads, with columns in braces: `"{passage}\\nQuestion: {question}\\nAnswer:"`."""


@dataclass(frozen=True)
class PromptedSplit(TokenSequences):
    """Prompts, each followed by an answer; several sequences may belong to one item."""

    answered: np.ndarray
    """Tokens of each sequence's answer, int64 `[sequences]`."""
    labels: np.ndarray
    """`[items]`, or what the type compares with."""
    gold: tuple[tuple[str, ...], ...] = ()
    """Acceptable answers of every item, where answers are texts."""

    def batch(self, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
        """Sequences padded on the left, and what asks the model for the logits of their answers alone.

        `input_ids`, `attention_mask` and `position_ids` are `[batch, longest]`; `logits_to_keep` `[answer]` are the
        places before the tokens of the longest answer, counted from the end, and `labels` `[batch, answer]` these
        tokens, `IGNORED` where a sequence's own answer is shorter.
        """
        import torch

        rows = np.asarray(indices)
        inputs = self._padded(rows, pad_token_id, self.lengths[rows])
        answered = self.answered[rows]
        longest = int(answered.max(initial=1))
        learnt = np.arange(longest)[None, :] >= longest - answered[:, None]
        inputs["labels"] = np.where(learnt, inputs["input_ids"][:, -longest:], IGNORED)
        inputs["logits_to_keep"] = np.arange(-longest - 1, -1)
        return {name: torch.from_numpy(array) for name, array in inputs.items()}

    def prompts(self, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
        """The prompts alone, padded on the left: what generation starts from."""
        import torch

        rows = np.asarray(indices)
        inputs = self._padded(rows, pad_token_id, self.lengths[rows] - self.answered[rows])
        return {name: torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask")}

    def _padded(self, rows: np.ndarray, pad_token_id: int, lengths: np.ndarray) -> dict[str, np.ndarray]:
        width = int(lengths.max(initial=1))
        places = np.arange(width)[None, :] - (width - lengths)[:, None]
        mask = places >= 0
        tokens = self.tokens[np.where(mask, self.offsets[rows][:, None] + places, 0)]
        return {
            "input_ids": np.where(mask, tokens, pad_token_id).astype(np.int64),
            "attention_mask": mask.astype(np.int64),
            "position_ids": np.where(mask, places, 0).astype(np.int64),
        }


PromptSourceT = TypeVar("PromptSourceT", bound=PromptSource)


class PromptTask(TaskType[PromptSourceT]):
    """Answers of a causal language model, whose own words are its outputs; the loss is on the answers alone."""

    auto_class: ClassVar[AutoClass] = "AutoModelForCausalLM"
    loss = "answer_cross_entropy"

    def outputs(self, label_names: tuple[str, ...]) -> int:
        """None: the model gets no head."""
        return 0

    def assume(self, source: PromptSourceT, count: int, max_length: int, reader: Any) -> AssumedSplit:
        """Prompts of `max_length` tokens, answer included."""
        return assumed_prompts(count, max_length)


def fill_prompts(table: pd.DataFrame, source: PromptSource, split: str, **columns: str) -> pd.DataFrame:
    """`text`, the prompts; all columns that they and `columns` name are there and full.

    Raises:
        BadRequestError: one is not, or the prompt is no template.
    """
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(source.prompt) if name is not None]
    except ValueError as error:
        raise BadRequestError(f"task.prompt {source.prompt!r} is no template: {error}") from error
    if not names:
        raise BadRequestError(f"task.prompt {source.prompt!r} names no column: put columns in braces, as {{question}}")
    require_columns(table, {name: name for name in names} | columns | {"group": source.group}, split)
    filled = [source.prompt.format_map(row) for row in table[list(dict.fromkeys(names))].to_dict("records")]
    return with_group(pd.DataFrame({"text": filled}), table, source)


def sequences(
    prompts: Sequence[str], answers: Sequence[Sequence[list[int]]], tokenizer: Any, room: int
) -> tuple[list[list[int]], list[int]]:
    """Token sequences of every prompt with each of its answers, and the lengths of these answers.

    A prompt that leaves its longest answer too little of `room` tokens loses its beginning, because questions stand at
    the end; a token that opens every text stays. This is ours.
    """
    opening = tokenizer.bos_token_id
    rows: list[list[int]] = []
    lengths: list[int] = []
    for prompt, choices in zip(tokenizer(list(prompts))["input_ids"], answers, strict=True):
        kept = room - max(len(answer) for answer in choices)
        if len(prompt) > kept:
            keeps_opening = opening is not None and prompt[0] == opening
            prompt = [opening, *prompt[len(prompt) - kept + 1 :]] if keeps_opening else prompt[len(prompt) - kept :]
        rows += [prompt + answer for answer in choices]
        lengths += [len(answer) for answer in choices]
    return rows, lengths


def prompted(
    rows: list[list[int]], lengths: list[int], labels: np.ndarray, gold: tuple[tuple[str, ...], ...] = ()
) -> PromptedSplit:
    """The split of these sequences."""
    tokens, offsets = end_to_end(rows)
    return PromptedSplit(tokens, offsets, np.array(lengths, dtype=np.int64), labels, gold)


def check_room(tokenizer: Any, max_length: int, answer: int) -> None:
    """Refuse a `max_length` that leaves no prompt beside an answer of so many tokens, or exceeds the model's limit.

    Raises:
        BadRequestError: it does.
    """
    if not answer + 1 < max_length <= tokenizer.model_max_length:
        raise BadRequestError(
            f"max_length is {max_length:,}: this tokenizer and answers of {answer} tokens take {answer + 2} to "
            f"{tokenizer.model_max_length:,} tokens"
        )


def assumed_prompts(count: int, length: int) -> AssumedSplit:
    """Sequences of so many tokens, the last of which is the answer."""

    def make(size: int) -> dict[str, np.ndarray]:
        ones = np.ones((size, length), dtype=np.int64)
        return {
            "input_ids": ones,
            "attention_mask": ones,
            "labels": np.ones((size, 1), dtype=np.int64),
            "logits_to_keep": np.array([-2]),
        }

    return AssumedSplit(count, length, make)
