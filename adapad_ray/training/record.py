"""What a training run counts: totals for the cell's record, and the figures of every round for its observers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from adapad_ray.adapters.lane import RESERVE
from adapad_ray.adapters.trainable_model import TrainableModel
from adapad_ray.results import GrowthEvent

OnProgress = Callable[[dict[str, Any]], None]
"""Called at the start and at the end of every round with `step`, `steps`, `resumed` (the step at which this attempt
began) and `loss` (of the last step; None at the start, and where one worker does not know it)."""
Probe = Callable[[TrainableModel, Sequence[int]], list[float]]
"""Measures the live values of the published blocks; one number per active block, block 1 first."""


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

    def count(self, tokens: int, padded_tokens: int, acting_parameters: int) -> None:
        """Counts one pass of a lane."""
        self.lane_passes += 1
        self.tokens += tokens
        self.padded_tokens += padded_tokens
        self.adapter_token_parameters += padded_tokens * acting_parameters

    def add(self, other: Tally) -> None:
        """Adds the work of `other`."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass
class Counts:
    """What one worker has counted for its own lanes since all workers last gathered."""

    losses: dict[int, dict[int, float]] = field(default_factory=dict)
    """Step → position of the lane among the step's lanes → loss."""
    work: Tally = field(default_factory=Tally)
    probes: list[dict[int, float]] = field(default_factory=list)
    """One entry a round: block → value of the probe."""


@dataclass
class TrainingRecord:
    """Totals of the training, the same in every worker of the cell once all have gathered."""

    losses: list[float] = field(default_factory=list)
    """Per optimizer step, summed over its lanes."""
    growth: list[GrowthEvent] = field(default_factory=list)
    work: Tally = field(default_factory=Tally)
    peak_parameters: int = 0
    seconds: float = 0.0
    """Of the worker of rank 0."""
    probes: list[list[float]] = field(default_factory=list)
    """Values of the task's probe after each round, where the task has one."""

    def settle(self, counts: Sequence[Counts]) -> None:
        """Adds what all workers have counted for the same steps."""
        steps: dict[int, dict[int, float]] = {}
        for part in counts:
            for step, losses in part.losses.items():
                steps.setdefault(step, {}).update(losses)
            self.work.add(part.work)
        self.losses += [sum(steps[step][i] for i in sorted(steps[step])) for step in sorted(steps)]
        for parts in zip(*(part.probes for part in counts), strict=True):
            values = {block: value for part in parts for block, value in part.items()}
            self.probes.append([values[block] for block in sorted(values)])

    def state(self) -> dict[str, Any]:
        """The record as JSON."""
        return {**asdict(self), "growth": [event.model_dump() for event in self.growth]}

    @classmethod
    def load(cls, state: dict[str, Any]) -> TrainingRecord:
        """Restores the result of `state`."""
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
    """Lane → relative movement of its estimate since it was last read: the deflation error of the lanes above it."""
    parameters: int
    """Active adapter parameters: what is charged to the budget so far."""
    staleness: int
    """Rounds between the newest version and the one that the next round reads."""
    tokens: int
    """Non-padding tokens that went through this worker's forward and backward passes."""
    compute_seconds: float
    wait_seconds: float
    """Time in which other workers were not ready. Data-parallel training counts it as exchange."""
    exchange_seconds: float
    bytes_published: int
    bytes_fetched: int
    ranks: dict[str, int] = field(default_factory=dict)
    """Active components per module. Not kept on disk: the cell's growth events hold the same."""

    @property
    def seconds(self) -> float:
        """Of the whole round, without growth and checkpoints."""
        return self.compute_seconds + self.wait_seconds + self.exchange_seconds


RoundObserver = Callable[[RoundStats], None]


def lane_name(lane: int) -> str:
    """Name of a lane in charts, metrics and messages: its number, or `reserve`."""
    return "reserve" if lane == RESERVE else str(lane)
