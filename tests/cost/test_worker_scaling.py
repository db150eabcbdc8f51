"""Expected times by number of workers, against counts made by hand."""

from __future__ import annotations

import pytest

from adapad_ray.cost.worker_scaling import (
    ROUND_TRIP_SECONDS,
    Phase,
    expected_phases,
    expected_times,
    lane_traffic,
)
from adapad_ray.testing import COST_PER_RANK, MethodCase

EIGHT_LANES = Phase(rounds=10, steps=100, components=8, reserve=False, published=8, estimate_bytes=1e6)


def seconds(phases, workers, link_gbps=10.0):
    (time,) = expected_times(phases, pass_seconds=0.5, link_gbps=link_gbps, workers=[workers])
    return time


def test_lanes_that_workers_share_evenly_take_their_share_of_the_time():
    assert seconds([EIGHT_LANES], 1).seconds == 100 * 8 * 0.5
    for workers in (2, 4, 8):
        time = seconds([EIGHT_LANES], workers)
        assert time.compute_seconds == 400 / workers
        assert time.seconds == time.compute_seconds + time.exchange_seconds
        assert time.idle_share == pytest.approx(0)


def test_a_round_is_as_slow_as_the_worker_with_the_most_lanes():
    three = seconds([EIGHT_LANES], 3, link_gbps=1e9)
    assert three.compute_seconds == 100 * 3 * 0.5
    assert three.idle_share == pytest.approx((1 - 8 / 9) * 150 / three.seconds)
    assert seconds([EIGHT_LANES], 64).compute_seconds == seconds([EIGHT_LANES], 8).compute_seconds


def test_traffic_is_triangular():
    """With a worker for each lane, lane k fetches the k - 1 below it, and the reserve lane all eight."""
    sent, received = lane_traffic(EIGHT_LANES, 8)
    assert received == [7, 0, 1, 2, 3, 4, 5, 6]
    assert sent == [0, 7, 6, 5, 4, 3, 2, 1]
    reserve = Phase(1, 1, components=8, reserve=True, published=8, estimate_bytes=1.0)
    assert lane_traffic(reserve, 9)[1] == [8, 0, 1, 2, 3, 4, 5, 6, 7]


def test_two_workers_fetch_what_the_other_one_owns_below_their_highest_lane():
    """Worker 0 has lanes 2, 4, 6, 8 and reads 1, 3, 5, 7; worker 1 has lanes 1, 3, 5, 7 and reads 2, 4, 6."""
    assert lane_traffic(EIGHT_LANES, 2) == ([3, 4], [4, 3])
    time = seconds([EIGHT_LANES], 2, link_gbps=8.0)
    assert time.exchange_seconds == pytest.approx(10 * (4e6 * 8 / 8e9 + ROUND_TRIP_SECONDS))
    assert (time.bytes_published, time.bytes_fetched) == (8e6, 7e6)
    assert seconds([EIGHT_LANES], 1).bytes_published == 0


def test_without_growth_every_step_trains_all_lanes_and_publishing_is_staggered():
    phases = expected_phases(MethodCase("adapad", 3 * COST_PER_RANK, {"initial_rank": 3, "local_steps": 2}).make())
    assert [(p.rounds, p.steps, p.lanes, p.published) for p in phases] == [
        (1, 2, 3, 1),
        (1, 2, 3, 2),
        (6, 11, 3, 3),  # 15 steps: the last round has one
    ]
    assert {p.estimate_bytes for p in phases} == {4 * COST_PER_RANK}


def test_growth_adds_lanes_until_the_budget_is_spent_and_the_reserve_lane_ends_with_it():
    settings = {"initial_rank": 0, "local_steps": 1, "growth_interval": 1, "growth_score": "reserve"}
    case = MethodCase("adapad", 4 * COST_PER_RANK, settings)
    method = case.make()
    phases = expected_phases(method)
    assert sum(p.steps for p in phases) == method.context.total_steps
    components = [p.components for p in phases]
    assert components == sorted(components)
    assert (components[0], phases[0].lanes) == (0, 2), "a lane of the head alone, and the reserves"
    assert components[-1] == max(method.limits.values())
    assert max(p.lanes for p in phases) <= method.plan().lanes
    ended = [p.reserve for p in phases].index(False)
    assert sum(p.steps for p in phases[:ended]) == method.schedule.end
    assert not any(p.reserve for p in phases[ended:])
    assert phases[-1].estimate_bytes * components[-1] == 4 * 4 * COST_PER_RANK


def test_growth_by_gradients_assigns_all_components_at_once():
    method = MethodCase("adapad", 4 * COST_PER_RANK, {"initial_rank": 0, "local_steps": 1}).make()
    phases = expected_phases(method)
    assert {p.components for p in phases} == {0, max(method.limits.values())}
    assert sum(p.steps for p in phases if p.reserve) == method.schedule.start


def test_a_joint_tail_trains_one_lane():
    case = MethodCase("adapad", 2 * COST_PER_RANK, {"initial_rank": 2, "local_steps": 1, "joint_fraction": 0.2})
    tail = expected_phases(case.make())[-1]
    assert (tail.steps, tail.lanes, tail.published) == (3, 1, 0)
