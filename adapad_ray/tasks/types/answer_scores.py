"""Scores of generated answers: where they end, and whether they match."""

from __future__ import annotations

import re
from collections.abc import Sequence

from adapad_ray.tasks.squad_scores import exact_match, token_f1

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def ended(text: str, stop: str | None) -> str:
    """An answer up to the text that stops it, without spaces around it."""
    return (text.partition(stop)[0] if stop else text).strip()


def score_answer(answer: str, gold: Sequence[str], match: str) -> tuple[float, float]:
    """Exact match and F1: of SQuAD's words, or both of the last number if `match` is `number`."""
    if match == "number":
        right = float(last_number(answer) in [last_number(text) for text in gold] and last_number(answer) != "")
        return right, right
    return exact_match(answer, gold), token_f1(answer, gold)


def last_number(text: str) -> str:
    """The last number of a text, without thousands separators and trailing zeros of a fraction; '' without any."""
    found = _NUMBER.findall(text)
    if not found:
        return ""
    number = str(found[-1]).replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number
