"""How long a component-parallel cell trains with W workers: lanes dealt round-robin, estimates over a link.

The numbers of workers need not fit the number of lanes, and lanes appear as ranks grow: a round takes as long as the
worker with the most lanes, so the speed-up is below W even where the exchange costs nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapad_ray.methods import Method
from adapad_ray.methods.growth import GrowingMethod

WORKERS = (1, 2, 4, 8, 16, 32, 64)
ROUND_TRIP_SECONDS = 0.01
"""What a round costs every worker beyond the transfer: serialising, the board's answer, the copy. Ours, as measured on
one machine (`benchmarks/plan_check.py`)."""
BYTES_PER_NUMBER = 4
"""Estimates travel in fp32."""


@dataclass(frozen=True)
class Phase:
    """A stretch of the training in which the structure stays the same."""

    rounds: int
    steps: int
    components: int
    """Lanes of components; before the first growth a lane of the head alone stands in their place."""
    reserve: bool
    """Whether the reserve lane learns as well."""
    published: int
    """Lanes that publish their estimates: all, once as many rounds are over."""
    estimate_bytes: float
    """Of one lane's estimate, as a mean over the lanes."""

    @property
    def lanes(self) -> int:
        """Lanes that learn, at positions that follow each other: no worker has more than one more than another."""
        return max(1, self.components) + self.reserve


@dataclass(frozen=True)
class WorkersTime:
    """Expected training time of one cell with so many workers."""

    workers: int
    seconds: float
    compute_seconds: float
    """Of the worker with the most lanes, round by round."""
    exchange_seconds: float
    idle_share: float
    """Share of all workers' time in which they neither compute nor exchange, because others have more lanes."""
    bytes_published: float
    """Per round, all workers together, as a mean over the rounds."""
    bytes_fetched: float


def expected_phases(method: Method[Any]) -> list[Phase]:
    """How many lanes train when, as far as that is known before.

    Growth is taken to spend in full what is released, and the largest rank to be twice the mean rank, or what growth by
    one component each time has reached. That is a guess of ours: scores decide.
    """
    phases = []
    for structure, group in itertools.groupby(_rounds(method), key=lambda r: replace(r, rounds=0, steps=0)):
        steps = [r.steps for r in group]
        phases.append(replace(structure, rounds=len(steps), steps=sum(steps)))
    return phases


def _rounds(method: Method[Any]) -> Iterator[Phase]:
    plan, total, period = method.plan(), method.context.total_steps, method.local_steps
    for start in range(0, total, period):
        steps = min(period, total - start)
        if method.in_tail(start):
            yield Phase(1, steps, 1, False, 0, 0.0)
            continue
        components, reserve, spent = plan.lanes, False, plan.parameters
        if isinstance(method, GrowingMethod) and plan.ranks is None:
            components, reserve, spent = _grown(method, start, plan.parameters)
        acting = spent * (plan.acting_parameters or plan.parameters) / plan.parameters
        size = BYTES_PER_NUMBER * acting / components if components else 0.0
        yield Phase(1, steps, components, reserve, min(components, start // period + 1), size)


def _grown(method: GrowingMethod[Any], step: int, reachable: int) -> tuple[int, bool, int]:
    """Components per module at most, whether there is a reserve lane, and active parameters in `step`."""
    schedule, initial = method.schedule, method.initial_rank
    if step < schedule.start:
        return initial, True, method.initial_parameters
    growths = (min(step, schedule.end) - schedule.start) // schedule.interval + 1
    latest = schedule.start + (growths - 1) * schedule.interval
    spent = min(reachable, schedule.released(latest, method.ledger.budget, method.initial_parameters))
    twice_the_mean = math.ceil(2 * spent / sum(method.costs.values()))
    components = max(initial, min(initial + growths, twice_the_mean, max(method.limits.values())))
    return components, not schedule.last(latest), spent


def expected_times(
    phases: Sequence[Phase], pass_seconds: float, link_gbps: float, workers: Sequence[int] = WORKERS
) -> tuple[WorkersTime, ...]:
    """Training time with each number of workers, one worker a node.

    Args:
        pass_seconds: of one lane's forward and backward pass with its optimizer step.
        link_gbps: rate of each worker's link, in both directions at once.
    """
    return tuple(_time(phases, pass_seconds, link_gbps, count) for count in workers)


def _time(phases: Sequence[Phase], pass_seconds: float, link_gbps: float, workers: int) -> WorkersTime:
    compute = exchange = busy = published = fetched = 0.0
    rounds = sum(phase.rounds for phase in phases)
    for phase in phases:
        compute += phase.steps * math.ceil(phase.lanes / workers) * pass_seconds
        busy += phase.steps * phase.lanes * pass_seconds
        if workers > 1:
            sent, received = lane_traffic(phase, workers)
            largest = phase.estimate_bytes * max(max(sent), max(received))
            exchange += phase.rounds * (8e-9 * largest / link_gbps + ROUND_TRIP_SECONDS)
            published += phase.rounds * phase.estimate_bytes * phase.published
            fetched += phase.rounds * phase.estimate_bytes * sum(received)
    seconds = compute + exchange
    idle = 1 - (busy / workers + exchange) / seconds
    return WorkersTime(workers, seconds, compute, exchange, idle, published / rounds, fetched / rounds)


def lane_traffic(phase: Phase, workers: int) -> tuple[list[int], list[int]]:
    """Estimates that each worker sends, counted once for every worker that fetches it, and that it fetches, per round.

    Lane k belongs to worker k mod W and reads the estimates below k; the reserve lane stands after the last and reads
    all of them. What a worker's lanes read it fetches once.
    """
    lanes = range(1, phase.components + 1 + phase.reserve)
    reads = [max((k - 1 for k in lanes if k % workers == w), default=0) for w in range(workers)]
    sent, received = [0] * workers, [0] * workers
    for k in range(1, phase.published + 1):
        for reader in range(workers):
            if reader != k % workers and k <= reads[reader]:
                sent[k % workers] += 1
                received[reader] += 1
    return sent, received
