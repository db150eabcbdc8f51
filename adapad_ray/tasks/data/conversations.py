"""Conversations in the cells of a table: their messages made alike, checked, and without the calls of tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.columns import is_unicode

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
"""Role in the data → role in a chat template."""
_TOOL_ROLES = ("tool", "function", "function_call", "observation")


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


Conversation = tuple[Message, ...]


class Place(NamedTuple):
    """Where a conversation stands, for messages."""

    column: str
    split: str
    row: int
    """From 1."""

    def refuse(self, found: str, remedy: str) -> BadRequestError:
        """The error about what was found here."""
        return BadRequestError(
            f"column {self.column!r} of the {self.split} data holds {found} in row {self.row:,}: {remedy}"
        )


def holds_messages(value: Any) -> bool:
    """Whether a value is a list whose first element is a message."""
    return isinstance(value, (list, tuple, np.ndarray)) and len(value) > 0 and isinstance(value[0], Mapping)


def read_messages(value: Any, place: Place) -> tuple[Conversation, bool]:
    """The messages of a list of `{role, content}` or `{from, value}`, and whether turns of tools were left out.

    A turn of an assistant that calls a tool is left out as the tool's answer is. Parts of a content that is a list are
    joined.

    Raises:
        BadRequestError: the value is no list of messages, a role is unknown, or a content is no text.
    """
    if not isinstance(value, (list, tuple, np.ndarray)) or not all(isinstance(turn, Mapping) for turn in value):
        raise place.refuse(f"{_shown(value)}", "a conversation is a list of messages with role and content")
    read: list[Message] = []
    for turn in value:
        if not ("role" in turn or "from" in turn):
            raise place.refuse(f"a message without a role ({_shown(dict(turn))})", "give it role and content")
        given = turn["role"] if "role" in turn else turn["from"]
        calls = turn.get("tool_calls")
        if given in _TOOL_ROLES or (calls is not None and len(calls) > 0):
            continue
        if given not in ROLES:
            raise place.refuse(f"a message with the role {given!r}", "use system, user or assistant")
        content = turn["content"] if "content" in turn else turn.get("value")
        read.append(Message(ROLES[given], _text(content, place)))
    return tuple(read), len(read) < len(value)


def check_turns(conversation: Conversation, place: Place) -> None:
    """Check that a conversation can be trained: it asks something first, and ends with an answer.

    Raises:
        BadRequestError: it does not, or an assistant says nothing.
    """
    roles = [message.role for message in conversation]
    if "assistant" not in roles:
        raise place.refuse("a conversation without an assistant's turn", "drop such rows")
    if roles[0] == "assistant":
        raise place.refuse("a conversation that begins with the assistant's turn", "begin with the user's")
    if any(message.role == "assistant" and not message.content.strip() for message in conversation):
        raise place.refuse("an empty assistant's turn", "drop such rows")
    if roles[-1] != "assistant":
        raise place.refuse(f"a conversation that ends with the {roles[-1]}'s turn", "end with the assistant's answer")


def without_last_answer(conversation: Conversation) -> Conversation:
    """The conversation up to its last answer, or all of it if it ends with a question."""
    return conversation[:-1] if conversation and conversation[-1].role == "assistant" else conversation


def _text(content: Any, place: Place) -> str:
    if isinstance(content, (list, tuple, np.ndarray)):
        return "".join(_part(part, place) for part in content)
    if content is None or content != content:
        return ""
    if not isinstance(content, str):
        raise place.refuse(f"a content that is no text ({_shown(content)})", "write it as text")
    if not is_unicode(content):
        raise place.refuse(f"half a surrogate pair ({ascii(content)[:60]})", "write the whole character")
    return content


def _part(part: Any, place: Place) -> str:
    if isinstance(part, str):
        return _text(part, place)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind != "text":
        raise place.refuse(f"a content with a part of type {kind!r}", "chat tasks read texts only")
    return _text(part.get("text"), place)


def _shown(value: Any) -> str:
    return str(value.tolist() if isinstance(value, np.ndarray) else value)[:60] or "nothing"
