"""Chat templates: a conversation as the model reads it, and which of its tokens the assistant says."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.conversations import Conversation, Message, Place

PLAIN = "plain"
"""Name of this package's template, for models that have none."""
_PLAIN = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_MARKS_ANSWERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_PROBE = "adapad"
"""A message by which a template is tried."""
_REMEDY = "set task.chat_template to the file of another"


class Rendered(NamedTuple):
    """The tokens of a conversation."""

    tokens: np.ndarray
    """int32 `[tokens]`."""
    learnt: np.ndarray
    """Whether a token is of an assistant's turn, the one that ends it included; bool `[tokens]`."""


def read_template(given: str | None) -> str | None:
    """The text of a template: of a file, or this package's `plain` one; None for the tokenizer's own.

    Raises:
        BadRequestError: the file cannot be read.
    """
    if given is None or given == PLAIN:
        return None if given is None else _PLAIN
    try:
        with open(os.path.expanduser(given), encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadRequestError(
            f"task.chat_template {given!r} cannot be read ({reason}): pass the path of a Jinja template, or {PLAIN}"
        ) from error


@dataclass(frozen=True)
class ChatTemplate:
    """A template with the tokenizer that reads what it writes.

    Without `{% generation %}` in the template, an assistant's turn is what the conversation up to it adds to the prompt
    before it, as long as each is the beginning of the whole conversation as it is written. It is learnt up to the token
    that ends a turn.
    """

    tokenizer: Any
    text: str

    @classmethod
    def of(cls, tokenizer: Any, text: str | None) -> ChatTemplate:
        """The given template, or the tokenizer's own.

        Raises:
            BadRequestError: there is none, it is no Jinja template, or the tokenizer cannot say where its tokens stand.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise BadRequestError(
                "the model's tokenizer does not say where its tokens stand in a text, which chat tasks need: use a "
                "model with a tokenizer.json"
            )
        if text is None:
            try:
                text = str(tokenizer.get_chat_template())
            except ValueError as error:
                raise BadRequestError(
                    "the model's tokenizer has no chat template: set task.chat_template to the file of one, or to "
                    f"{PLAIN} for lines of `User: …` and `Assistant: …`"
                ) from error
        found = cls(tokenizer, text)
        _ = found.end  # a template that cannot be used is refused before any row
        return found

    @cached_property
    def end(self) -> int | None:
        """The special token that ends an assistant's turn; None if the template writes none.

        Raises:
            BadRequestError: the template cannot be used at all.
        """
        try:
            text = self._write((Message("user", "a"), Message("assistant", _PROBE)))
        except _errors() as error:
            raise BadRequestError(f"the chat template cannot be used: {error}") from error
        if _PROBE not in text:
            raise BadRequestError("the chat template leaves out what the assistant says: set task.chat_template")
        encoded = self._tokens([text], return_offsets_mapping=True)
        said = text.rindex(_PROBE) + len(_PROBE)
        stands = zip(encoded["input_ids"][0], encoded["offset_mapping"][0], strict=True)
        return next((token for token, (begin, _) in stands if begin >= said and token in self._special), None)

    @cached_property
    def folds_system(self) -> bool:
        """Whether the template refuses or leaves out a system prompt, which then begins the first user's turn."""
        try:
            text = self._write((Message("system", _PROBE), Message("user", "a")), add_generation_prompt=True)
        except _errors():
            return True
        return _PROBE not in text

    @property
    def depends_on_the_day(self) -> bool:
        """Whether it writes the date, so that the same rows are other data tomorrow."""
        return "strftime_now" in self.text

    def holds_special(self, conversation: Conversation) -> bool:
        """Whether a message holds a special token, which the tokenizer takes for its own."""
        return any(self._special_text.search(message.content) for message in conversation)

    def render(self, conversations: Sequence[Conversation], places: Sequence[Place]) -> list[Rendered]:
        """The tokens of conversations that end with an answer, without those after the last that is learnt.

        Raises:
            BadRequestError: the template refuses a conversation, or does not say which part is the assistant's.
        """
        folded = [self._folded(conversation) for conversation in conversations]
        each = self._marked if _MARKS_ANSWERS.search(self.text) else self._by_prefixes
        return each(folded, places)

    def prompts(self, conversations: Sequence[Conversation], places: Sequence[Place]) -> list[np.ndarray]:
        """The tokens before the answer to each of these conversations, int32 `[tokens]`.

        Raises:
            BadRequestError: the template refuses a conversation.
        """
        texts = [
            self._try(self._folded(conversation), place, add_generation_prompt=True)
            for conversation, place in zip(conversations, places, strict=True)
        ]
        return [np.array(ids, dtype=np.int32) for ids in self._tokens(texts)["input_ids"]]

    def _folded(self, conversation: Conversation) -> Conversation:
        first, *rest = conversation
        if first.role != "system" or not rest or rest[0].role != "user" or not self.folds_system:
            return conversation
        return (Message("user", f"{first.content}\n\n{rest[0].content}"), *rest[1:])

    def _by_prefixes(self, conversations: Sequence[Conversation], places: Sequence[Place]) -> list[Rendered]:
        texts, spans = [], []
        for conversation, place in zip(conversations, places, strict=True):
            text = self._try(conversation, place)
            texts.append(text)
            spans.append([self._span(text, conversation, i, place) for i in _answers(conversation)])
        encoded = self._tokens(texts, return_offsets_mapping=True)
        rendered = []
        stood = zip(encoded["input_ids"], encoded["offset_mapping"], spans, places, strict=True)
        for ids, offsets, of_answers, place in stood:
            tokens, stands = np.array(ids, dtype=np.int32), np.array(offsets).reshape(-1, 2)
            learnt = np.zeros(len(tokens), dtype=bool)
            for begin, end in of_answers:
                inside = np.flatnonzero((stands[:, 1] > begin) & (stands[:, 0] < end))
                ends = inside[tokens[inside] == (-1 if self.end is None else self.end)]
                learnt[inside[inside <= ends[-1]] if len(ends) else inside] = True
            rendered.append(_until_last(tokens, learnt, place))
        return rendered

    def _span(self, text: str, conversation: Conversation, turn: int, place: Place) -> tuple[int, int]:
        """Where the text of an assistant's turn begins and ends."""
        before = self._try(conversation[:turn], place, add_generation_prompt=True)
        until = self._try(conversation[: turn + 1], place)
        shared = len(until) if text.startswith(until) else _shared_beginning(text, until)
        # What closes a whole conversation, as in Phi-3's template, may follow the token that ends the turn.
        ends = shared == len(until) or (self._end_text or "\0") in text[len(before) : shared]
        if not text.startswith(before) or not ends:
            raise place.refuse(
                "a conversation that the chat template does not write turn by turn",
                f"which tokens are the assistant's cannot be told, so {_REMEDY}, or of one with {{% generation %}}",
            )
        return len(before), shared

    def _marked(self, conversations: Sequence[Conversation], places: Sequence[Place]) -> list[Rendered]:
        rendered = []
        for conversation, place in zip(conversations, places, strict=True):
            found = self._try(conversation, place, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
            learnt = np.array(found["assistant_masks"], dtype=bool)
            rendered.append(_until_last(np.array(found["input_ids"], dtype=np.int32), learnt, place))
        return rendered

    def _try(self, conversation: Conversation, place: Place, **options: Any) -> Any:
        try:
            return self._write(conversation, **options)
        except _errors() as error:
            raise place.refuse(
                f"a conversation that the chat template refuses ({error})", f"change it, or {_REMEDY}"
            ) from error

    def _write(self, conversation: Conversation, *, tokenize: bool = False, **options: Any) -> Any:
        messages = [message._asdict() for message in conversation]
        return self.tokenizer.apply_chat_template(messages, chat_template=self.text, tokenize=tokenize, **options)

    def _tokens(self, texts: list[str], **options: Any) -> Any:
        return self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, **options)

    @property
    def _end_text(self) -> str | None:
        return None if self.end is None else str(self.tokenizer.convert_ids_to_tokens(self.end))

    @cached_property
    def _special(self) -> np.ndarray:
        """Tokens that texts are not made of: special ones, and added ones that the template writes."""
        added = self.tokenizer.added_tokens_decoder
        written = {i for i, token in added.items() if token.content.strip() and token.content in self.text}
        special = {i for i, token in added.items() if token.special} | set(self.tokenizer.all_special_ids)
        return np.array(sorted(written | special), dtype=np.int32)

    @cached_property
    def _special_text(self) -> re.Pattern[str]:
        texts = self.tokenizer.convert_ids_to_tokens(self._special.tolist())
        return re.compile("|".join(map(re.escape, texts)) or "(?!)")


def last_answer(learnt: np.ndarray) -> int:
    """Where the last run of learnt tokens begins."""
    places = np.flatnonzero(learnt)
    breaks = [later for earlier, later in pairwise(places.tolist()) if later > earlier + 1]
    return int(breaks[-1] if breaks else places[0])


def _answers(conversation: Conversation) -> list[int]:
    return [i for i, message in enumerate(conversation) if message.role == "assistant"]


def _shared_beginning(one: str, other: str) -> int:
    """How many characters two texts have in common before they differ."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _until_last(tokens: np.ndarray, learnt: np.ndarray, place: Place) -> Rendered:
    if not learnt.any():
        raise place.refuse("a conversation of whose answers the chat template marks, or leaves, nothing", _REMEDY)
    end = int(np.flatnonzero(learnt)[-1]) + 1
    return Rendered(tokens[:end], learnt[:end])


def _errors() -> tuple[type[Exception], ...]:
    """What a template raises for a conversation that it does not take, and for its own mistakes."""
    import jinja2

    return (jinja2.TemplateError, TypeError, ValueError, KeyError)
