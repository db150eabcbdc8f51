"""Estimates how long a component-parallel cell trains with W workers.

Lane k of a cell trains the component with index k of every module and belongs to worker k mod W. All lanes exchange
estimates of their components at the end of a round. A round takes as long as the worker with the most lanes, and lanes
are added as ranks grow, so the speed-up is below W even if the exchange costs nothing.
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
"""Time per round and worker in addition to the transfer: serialising, the estimate board's reply, the copy. Measured on
one machine with `benchmarks/plan_check.py`."""
BYTES_PER_NUMBER = 4
"""Estimates are sent in fp32."""


@dataclass(frozen=True)
class Phase:
    """Consecutive rounds of a training with the same structure."""

    rounds: int
    steps: int
    components: int
    """Lanes of components. If 0, before the first growth, one lane trains the head alone."""
    reserve: bool
    """Whether the reserve lane trains too; it holds the components that are not yet active."""
    published: int
    """Lanes that publish their estimates: one more in each round, up to all of them."""
    estimate_bytes: float
    """Size of one lane's estimate, mean over the lanes."""

    @property
    def lanes(self) -> int:
        """Lanes that train. Their indices are consecutive, so the workers' numbers of lanes differ by at most one."""
        return max(1, self.components) + self.reserve


@dataclass(frozen=True)
class WorkersTime:
    """Expected training time of one cell with a number of workers."""

    workers: int
    seconds: float
    compute_seconds: float
    """Sum over the rounds of the time of the worker with the most lanes."""
    exchange_seconds: float
    idle_share: float
    """Share of all workers' time spent waiting for workers with more lanes."""
    bytes_published: float
    """By all workers in one round, mean over the rounds."""
    bytes_fetched: float
    """By all workers in one round, mean over the rounds."""


def expected_phases(method: Method[Any]) -> list[Phase]:
    """How many lanes train in which rounds, as expected before training.

    Growth is assumed to spend everything that is released. The largest rank is assumed to be twice the mean rank, or
    less if growth by one component at a time has not reached it. In training, the modules' scores decide.
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
    """The largest rank, whether there is a reserve lane, and the number of active parameters at `step`."""
    schedule, initial = method.schedule, method.initial_rank
    if step < schedule.start:
        return initial, True, method.initial_parameters
    growths = (min(step, schedule.end) - schedule.start) // schedule.interval + 1
    latest = schedule.start + (growths - 1) * schedule.interval
    spent = min(reachable, schedule.released(latest, method.ledger.budget, method.initial_parameters))
    twice_the_mean = math.ceil(2 * spent / sum(method.costs.values()))
    most = min(twice_the_mean, max(method.limits.values()))
    components = max(initial, min(initial + growths, most) if method.one_at_a_time else most)
    return components, not schedule.last(latest), spent


def expected_times(
    phases: Sequence[Phase], pass_seconds: float, link_gbps: float, workers: Sequence[int] = WORKERS
) -> tuple[WorkersTime, ...]:
    """Training time with each number of workers, one worker per node.

    Args:
        pass_seconds: one lane's forward and backward pass and optimizer step.
        link_gbps: rate of each worker's link in Gbit/s, full duplex.
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
    """Number of estimates that each worker sends (once to every worker that fetches it) and fetches in one round.

    Lane k reads the estimates of all lanes below k. The reserve lane is the last and reads all of them. A worker
    fetches an estimate once for all of its lanes.
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
