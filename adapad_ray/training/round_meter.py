"""Measures the rounds of one worker: losses, tokens, compute time and traffic."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from adapad_ray.adapters.trainable_model import TrainableModel
from adapad_ray.training.estimates import Estimates
from adapad_ray.training.record import RoundStats
from adapad_ray.training.workers import Traffic


class Stopwatch:
    """Training time in seconds, that of earlier attempts included."""

    def __init__(self) -> None:
        self.start(0.0)

    def start(self, before: float) -> None:
        """Runs from here on.

        Args:
            before: seconds of earlier attempts.
        """
        self._zero = time.perf_counter() - before

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._zero

    def leave_out(self, seconds: float) -> None:
        """Takes this much time off."""
        self._zero += seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time of the block."""
        began = time.perf_counter()
        yield
        self.leave_out(time.perf_counter() - began)


class RoundMeter:
    """Collects one worker's figures of the current round.

    Compute time runs from the start of the round to its last step, without the exchanges in between.

    Args:
        stopwatch: of the training; what it leaves out is left out here.
    """

    def __init__(self, traffic: Traffic, stopwatch: Stopwatch) -> None:
        self._traffic, self._stopwatch = traffic, stopwatch
        self._compute = 0.0
        self.begin_round()

    def begin_round(self) -> None:
        """Starts a new round with all figures at zero."""
        self._losses: dict[int, list[float]] = {}
        self._tokens = 0
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leaves out all time and traffic of this round so far."""
        self._traffic_before = replace(self._traffic)
        self._began = self._stopwatch.seconds

    def add(self, lane: int, loss: float, tokens: int) -> None:
        """Counts one pass of a lane."""
        self._losses.setdefault(lane, []).append(loss)
        self._tokens += tokens

    def end_compute(self) -> None:
        """Stops the compute time: the round's last step is done."""
        exchanged = self._traffic.exchange_seconds - self._traffic_before.exchange_seconds
        self._compute = self._stopwatch.seconds - self._began - exchanged

    def stats(self, step: int, adapted: TrainableModel, estimates: Estimates, movement: dict[int, float]) -> RoundStats:
        """The figures of the round that ends after `step` optimizer steps."""
        before = vars(self._traffic_before)
        return RoundStats(
            round=estimates.newest,
            step=step,
            losses={lane: sum(values) / len(values) for lane, values in self._losses.items()},
            movement=movement,
            ranks=adapted.ranks,
            parameters=adapted.active_parameters(),
            staleness=estimates.newest - estimates.readable,
            tokens=self._tokens,
            compute_seconds=self._compute,
            **{name: value - before[name] for name, value in vars(self._traffic).items()},
        )
