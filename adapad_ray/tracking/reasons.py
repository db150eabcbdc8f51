"""Why a store fails, in a few words: what MLflow raises quotes whole replies, such as the page of a proxy."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

_LONGEST = 200
_STATUS = re.compile(r"error code (\d{3})\b|too many (\d{3}) error responses")
_SYSTEM = re.compile(r"\[Errno -?\d+\] ([^'\")]+)")
_CAUSE = re.compile(r"\(Caused by .*'([^']+)'[^']*$")
FOREIGN = "its reply is not MLflow's"


def reason_of(error: BaseException) -> str:
    """The reason in one line, without passwords: a reply's status or what it says, else the first telling line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).strip()
    reply = getattr(error, "json", None)  # of MLflow's RestException
    if isinstance(reply, Mapping):
        return _shortened(_of_reply(reply))
    if found := _STATUS.search(text.partition("Response body:")[0]):
        return answered(int(found[1] or found[2]))
    if "not in a valid JSON format" in text:
        return FOREIGN
    if "timed out" in text or "timeout exception" in text:
        return "it does not answer in time"
    if found := _SYSTEM.search(text):
        return _shortened(found[1])
    if found := _CAUSE.search(text):
        return _shortened(found[1])
    lines = [line for line in text.splitlines() if not line.startswith("(raised as a result of")]
    return _shortened(lines[0] if lines else type(error).__name__)


def answered(status: int) -> str:
    """`it answers HTTP 502 Bad Gateway`."""
    known = status in set(HTTPStatus)
    return f"it answers HTTP {status}{' ' + HTTPStatus(status).phrase if known else ''}"


def _of_reply(reply: Mapping[str, Any]) -> str:
    """What MLflow's own errors say; of other JSON, the text that says what is wrong."""
    said = next((reply[key] for key in ("message", "detail", "error") if isinstance(reply.get(key), str)), "")
    first = said.strip().partition("\n")[0]
    if not first:
        return FOREIGN
    return f"{reply['error_code']}: {first}" if isinstance(reply.get("error_code"), str) else f"it answers: {first}"


def _shortened(line: str) -> str:
    line = re.sub(r"//[^/@\s]*@", "//", " ".join(line.split()))
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
