"""Conversations for causal language models: what the assistant says is learnt, and its last turn is generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from adapad_ray.tasks.data.conversations import Conversation, Place, without_last_answer
from adapad_ray.tasks.encoding.chat_template import ChatTemplate, Rendered, last_answer
from adapad_ray.tasks.encoding.prompts import PromptedSplit
from adapad_ray.tasks.encoding.texts import TokenSequences, concatenate

_MOST_ANSWER_TOKENS = 4096
"""Answer tokens, padding included, of an evaluation batch: with a vocabulary of 128,000, 2 GB of logits in fp32. Not
published; this project's choice."""


@dataclass(frozen=True, kw_only=True)
class ConversationSplit(PromptedSplit):
    """Conversations; of the tokens from the first answer on, those of the assistant are learnt."""

    learnt: np.ndarray
    """bool `[total]`."""
    asked: TokenSequences
    """What is before the last answers, for generation; empty for a split that is only learnt."""
    end: int | None
    """The token that ends an answer, beside the tokenizer's end-of-text token."""
    cut: int
    """Conversations that are longer than may be read."""

    @property
    def prompt_lengths(self) -> np.ndarray:
        """Tokens before each last answer, int64 `[examples]`."""
        return self.asked.lengths

    @property
    def learnt_tokens(self) -> np.ndarray:
        """Tokens of each conversation that the assistant says, int64 `[examples]`."""
        return np.add.reduceat(self.learnt.astype(np.int64), self.offsets[:-1])

    def evaluation_batches(self, batch_size: int) -> list[np.ndarray]:
        """As of other sequences, in smaller batches where many logits are needed."""
        batches = []
        for rows in super().evaluation_batches(batch_size):
            longest = int(self.answered[rows].max())
            size = max(1, _MOST_ANSWER_TOKENS // longest)
            batches += [rows[start : start + size] for start in range(0, len(rows), size)]
        return batches

    def prompts(self, indices: np.ndarray, pad_token_id: int) -> dict[str, Any]:
        """What is before the last answers, padded on the left."""
        import torch

        rows = np.asarray(indices)
        inputs = self.left_padded(self.asked, rows, pad_token_id, self.asked.lengths[rows])
        return {name: torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask")}

    def _learns(self, rows: np.ndarray, longest: int) -> np.ndarray:
        back = np.arange(-longest, 0)[None, :]
        within = back >= -self.answered[rows][:, None]
        learns: np.ndarray = within & self.learnt[np.where(within, self.offsets[rows + 1][:, None] + back, 0)]
        return learns


class Limits(NamedTuple):
    """How many tokens are read and written."""

    max_length: int
    max_new_tokens: int
    """0 for a split whose conversations are never answered."""


def encode_conversations(
    conversations: Sequence[Conversation],
    places: Sequence[Place],
    gold: tuple[tuple[str, ...], ...],
    template: ChatTemplate,
    limits: Limits,
) -> ConversationSplit:
    """The split of these conversations, each of which ends with an answer.

    Raises:
        BadRequestError: the template does not take a conversation.
    """
    opening = template.tokenizer.bos_token_id
    whole = template.render(conversations, places)
    rendered = [_cut(row, limits.max_length, opening) for row in whole]
    asked, room = [], limits.max_length - limits.max_new_tokens
    if limits.max_new_tokens:
        asked = template.prompts([without_last_answer(conversation) for conversation in conversations], places)
    tokens, offsets = concatenate([row.tokens for row in rendered])
    return ConversationSplit(
        tokens,
        offsets,
        np.array([len(row.learnt) - int(row.learnt.argmax()) for row in rendered], dtype=np.int64),
        np.ones(len(rendered), dtype=np.int64),
        gold,
        learnt=np.concatenate([row.learnt for row in rendered]),
        asked=TokenSequences(*concatenate([_last(ids, room, opening) for ids in asked])),
        end=template.end,
        cut=sum(len(row.tokens) > limits.max_length for row in whole),
    )


def _cut(row: Rendered, max_length: int, opening: int | None) -> Rendered:
    """The conversation in `max_length` tokens.

    The last answer loses what it has beyond the room that is left for it, but keeps half of `max_length`; then the
    conversation before it loses its beginning, except for the opening token. Not published; this project's choice.
    """
    if len(row.tokens) <= max_length:
        return row
    begin = last_answer(row.learnt)
    end = begin + max(max_length - begin, max_length // 2)
    tokens = _last(row.tokens[:end], max_length, opening)
    learnt = row.learnt[:end][-max_length:].copy()
    learnt[0] = False  # nothing is before it
    return Rendered(tokens, learnt)


def _last(tokens: np.ndarray, room: int, opening: int | None) -> np.ndarray:
    """The last tokens, after the opening token if they began with it."""
    if len(tokens) <= room:
        return tokens
    kept = tokens[-room:].copy()
    if opening is not None and tokens[0] == opening:
        kept[0] = opening
    return kept
