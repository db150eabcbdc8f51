"""Prompts and answers for causal language models, padded on the left so that all answers end together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.encoding.assumed import AssumedSplit
from adapad_ray.tasks.encoding.texts import TokenSequences, concatenate
from adapad_ray.tasks.losses import IGNORED
from adapad_ray.wording import counted

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PromptedSplit(TokenSequences):
    """Prompts, each followed by an answer; several sequences may belong to one item."""

    pads_left: ClassVar[bool] = True
    can_share_rows: ClassVar[bool] = True
    answered: np.ndarray
    """Tokens of each sequence's answer, int64 `[sequences]`."""
    labels: np.ndarray
    """What predictions are compared with, `[items]`."""
    gold: tuple[tuple[str, ...], ...] = ()
    """The acceptable answers of every item, if answers are texts."""

    def batch(self, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
        """Sequences padded on the left; the model computes logits of their answers only.

        `input_ids`, `attention_mask` and `position_ids` are `[batch, longest]`. `logits_to_keep` `[answer]` are the
        positions before the tokens of the longest answer, counted from the end; `labels` `[batch, answer]` are these
        tokens, or `IGNORED` where a sequence's answer is shorter.
        """
        import torch

        rows = np.asarray(indices)
        inputs = self.left_padded(self, rows, pad_token_id, self.lengths[rows])
        longest = int(self.answered[rows].max(initial=1))
        inputs["labels"] = np.where(self._learns(rows, longest), inputs["input_ids"][:, -longest:], IGNORED)
        inputs["logits_to_keep"] = np.arange(-longest - 1, -1)
        return {name: torch.from_numpy(array) for name, array in inputs.items()}

    def prompts(self, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
        """The prompts without answers, padded on the left, for generation."""
        import torch

        rows = np.asarray(indices)
        inputs = self.left_padded(self, rows, pad_token_id, self.prompt_lengths[rows])
        return {name: torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask")}

    @property
    def prompt_lengths(self) -> np.ndarray:
        """Tokens of each prompt, int64 `[sequences]`."""
        lengths: np.ndarray = self.lengths - self.answered
        return lengths

    def _learns(self, rows: np.ndarray, longest: int) -> np.ndarray:
        """Which of the last `longest` tokens of each row are learnt, bool `[rows, longest]`."""
        learns: np.ndarray = np.arange(longest)[None, :] >= longest - self.answered[rows][:, None]
        return learns

    @staticmethod
    def left_padded(
        of: TokenSequences, rows: np.ndarray, pad_token_id: int, lengths: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The first `lengths` tokens of some sequences, padded on the left, with their mask and positions."""
        width = int(lengths.max(initial=1))
        positions = np.arange(width)[None, :] - (width - lengths)[:, None]
        mask = positions >= 0
        tokens = of.tokens[np.where(mask, of.offsets[rows][:, None] + positions, 0)]
        return {
            "input_ids": np.where(mask, tokens, pad_token_id).astype(np.int64),
            "attention_mask": mask.astype(np.int64),
            "position_ids": np.where(mask, positions, 0).astype(np.int64),
        }


def sequences(
    prompts: Sequence[str], answers: Sequence[Sequence[list[int]]], tokenizer: Any, room: int
) -> tuple[list[list[int]], list[int]]:
    """Token sequences of every prompt with each of its answers, and the lengths of these answers.

    A prompt that is too long for `room` tokens with its longest answer loses its beginning, because questions are at
    the end; the tokenizer's beginning-of-text token is kept. Not published; this project's choice.
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
    tokens, offsets = concatenate(rows)
    return PromptedSplit(tokens, offsets, np.array(lengths, dtype=np.int64), labels, gold)


def check_room(tokenizer: Any, max_length: int, answer: int) -> None:
    """Check that `max_length` leaves room for a prompt beside an answer, and is within the model's limit.

    Args:
        tokenizer: the model's.
        max_length: tokens of prompt and answer.
        answer: tokens of the longest answer.

    Raises:
        BadRequestError: it does not.
    """
    if not answer + 1 < max_length <= tokenizer.model_max_length:
        raise BadRequestError(
            f"max_length is {max_length:,}: this tokenizer and answers of {counted(answer, 'token')} take "
            f"{answer + 2} to {tokenizer.model_max_length:,} tokens"
        )


def assumed_prompts(count: int, length: int) -> AssumedSplit:
    """Sequences of `length` tokens, the last of which is the answer."""

    def make(size: int) -> dict[str, np.ndarray]:
        ones = np.ones((size, length), dtype=np.int64)
        return {
            "input_ids": ones,
            "attention_mask": ones,
            "labels": np.ones((size, 1), dtype=np.int64),
            "logits_to_keep": np.array([-2]),
        }

    return AssumedSplit(count, length, make, can_share_rows=True)
