"""Acceptable answers as rows hold them: a text, a list of texts, or SQuAD's `{text: [...]}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adapad_ray.tasks.data.columns import text_of
from adapad_ray.tasks.data.conversations import Place


def acceptable_answers(value: Any, place: Place, no_answer: str) -> tuple[str, ...]:
    """The answers, the one to train first; `no_answer` where the list is empty.

    Raises:
        BadRequestError: a text is empty, or an element is no text.
    """
    texts = value.get("text") if isinstance(value, Mapping) else value
    if not isinstance(texts, (list, tuple, np.ndarray)):
        texts = [texts]
    answers = tuple(text_of(text, place.column, place.split, place.row) for text in texts)
    if isinstance(value, str) and not value.strip():
        raise place.refuse("an empty answer", "drop such rows")
    return answers or (no_answer,)
