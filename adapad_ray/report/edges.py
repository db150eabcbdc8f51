"""Where the best value of a tuned setting lies at the edge of what was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Trials = Sequence[tuple[float, Mapping[str, Any]]]
"""Scores (larger is better) and the settings tried, in the order of the points."""


def best_of(trials: Trials) -> Mapping[str, Any]:
    """The settings that the tune stage chooses: a tie goes to the smaller learning rate, then to the earlier trial."""
    return max(trials, key=lambda trial: (trial[0], -trial[1].get("learning_rate", 0.0)))[1]


def edges_of(trials: Trials) -> list[str]:
    """A sentence for every numeric setting whose best value is the smallest or the largest of three or more tried."""
    if not trials:
        return []
    sentences = []
    for name, value in best_of(trials).items():
        tried = {settings[name] for _, settings in trials if _is_number(settings.get(name))}
        if not _is_number(value) or len(tried) < 3:
            continue
        for edge, extreme, wider in (("smallest", min(tried), "lower"), ("largest", max(tried), "higher")):
            if value == extreme:
                sentences.append(
                    f"the best {name}, {value:g}, is the {edge} of those tried; {wider} ones may be better"
                )
    return sentences


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
