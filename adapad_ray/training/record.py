"""What a training run counts: totals for the cell's record, and figures of every round for whoever watches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from adapad_ray.adapters.lane import RESERVE
from adapad_ray.results import GrowthEvent


@dataclass
class Tally:
    """Work done; the tallies of several workers add up."""

    lane_passes: int = 0
    tokens: int = 0
    """Non-padding tokens through a forward and backward pass."""
    padded_tokens: int = 0
    """The same with padding: what was computed."""
    adapter_token_parameters: int = 0
    """Σ over passes of tokens × acting adapter parameters, for the FLOP estimate."""

    def add(self, other: Tally) -> None:
        """Adds another's work to this one's."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class TrainingRecord:
    """What the loop has counted, the same in every worker of the cell."""

    losses: list[float] = field(default_factory=list)
    """Per optimizer step, summed over its lanes."""
    growth: list[GrowthEvent] = field(default_factory=list)
    work: Tally = field(default_factory=Tally)
    peak_parameters: int = 0
    seconds: float = 0.0
    """Of the worker of rank 0."""
    probes: list[list[float]] = field(default_factory=list)
    """What the task's own probe said after each round, where the task has one."""

    def state(self) -> dict[str, Any]:
        """The record as JSON."""
        return {**asdict(self), "growth": [event.model_dump() for event in self.growth]}

    @classmethod
    def load(cls, state: dict[str, Any]) -> TrainingRecord:
        """Restores what `state` gave."""
        state = copy.deepcopy(state)
        growth = [GrowthEvent(**event) for event in state["growth"]]
        return cls(**{**state, "growth": growth, "work": Tally(**state["work"])})


@dataclass(frozen=True)
class RoundStats:
    """One worker's figures of one round."""

    round: int
    """From 1."""
    step: int
    """Optimizer steps done."""
    losses: dict[int, float]
    """Lane → mean loss over the round, for the lanes of this worker."""
    movement: dict[int, float]
    """Lane → relative movement of its estimate since it was read before: the deflation error of those above it."""
    parameters: int
    """Active adapter parameters: what is charged to the budget so far."""
    staleness: int
    """Rounds between the newest version and the one that the next round reads."""
    tokens: int
    """Non-padding tokens that went through this worker's forward and backward passes."""
    compute_seconds: float
    wait_seconds: float
    """Time in which other workers were not ready. In data-parallel training it cannot be told from the exchange."""
    exchange_seconds: float
    bytes_published: int
    bytes_fetched: int
    ranks: dict[str, int] = field(default_factory=dict)
    """Active components per module. Not kept on disk: the cell's growth events say the same."""

    @property
    def seconds(self) -> float:
        """Of the whole round, growth and checkpoints apart."""
        return self.compute_seconds + self.wait_seconds + self.exchange_seconds


RoundObserver = Callable[[RoundStats], None]


def lane_name(lane: int) -> str:
    """How charts and metrics call a lane: its number, or `reserve`."""
    return "reserve" if lane == RESERVE else str(lane)
