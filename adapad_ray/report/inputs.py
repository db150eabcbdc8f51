"""What a report needs besides the finished cells; the sweep's manifest stores it."""

from __future__ import annotations

from typing import NamedTuple


class Gap(NamedTuple):
    """A (label, budget) pair that cannot exist, and why."""

    label: str
    budget: int | None
    reason: str


class FailedCell(NamedTuple):
    """A cell without a result, and why."""

    label: str
    budget: int | None
    seed: int
    reason: str


class SearchedLabel(NamedTuple):
    """The search of one label, in a sweep of `mode: search`."""

    label: str
    study: str
    """Name of its study in the sweep's `optuna.db`."""
    trials: int
    """Trials that the sweep's file requests."""
    front_label: str
    """Label of the retrained front in the curve."""
    front: list[int]
    """Numbers of the trials that were retrained with every seed."""
