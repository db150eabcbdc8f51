"""SQuAD's official scores of answers as texts (1606.05250, 1806.03822): normalisation, exact match and F1."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces, in this order, as in the official script."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(answer: str, gold: Sequence[str]) -> float:
    """1 if the normalised answer equals a normalised gold answer, or is empty where there is no gold answer; else 0."""
    return float(normalise_answer(answer) in _acceptable(gold))


def token_f1(answer: str, gold: Sequence[str]) -> float:
    """Largest F1 of the words that answer and gold answer share; an empty answer matches an empty one only."""
    return max(_overlap(normalise_answer(answer).split(), other.split()) for other in _acceptable(gold))


def _acceptable(gold: Sequence[str]) -> list[str]:
    """Normalised gold answers without empty ones; the empty answer if none remains."""
    return [text for text in map(normalise_answer, gold) if text] or [""]


def _overlap(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    shared = sum((Counter(answer) & Counter(gold)).values())
    return 2 * shared / (len(answer) + len(gold))


def best_threshold(no_answer: np.ndarray, answered: np.ndarray, silent: np.ndarray) -> float:
    """The threshold with the largest sum of scores.

    Args:
        no_answer: `[items]`; an item is answered if its value does not exceed the threshold.
        answered: score of each item if it is answered.
        silent: score of each item if it is not.

    Returns:
        The lowest of equally good thresholds; -inf if answering none is best.
    """
    order = np.argsort(no_answer, kind="stable")
    scores = no_answer[order]
    gains = np.concatenate([[0.0], np.cumsum((answered - silent)[order])])
    # Items of the same score are answered together or not at all.
    possible = np.concatenate([[True], np.append(scores[1:] > scores[:-1], True)])
    count = int(np.flatnonzero(possible)[gains[possible].argmax()])
    return float(scores[count - 1]) if count else -np.inf
