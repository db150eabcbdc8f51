"""Early stopping decides from scores alone: whatever the order in which trials arrive, and whatever was killed."""

from __future__ import annotations

import itertools
import random

import pytest

from adapad_ray.search.halving import RUNGS as OWN_RUNGS
from adapad_ray.search.halving import Halving, RankedTrial, Rung, full_trainings, go_on

RUNGS = (Rung(0.25, 0.5), Rung(0.5, 0.5))


@pytest.mark.parametrize(
    ("scores", "keep", "expected"),
    [
        ([0.1, 0.4, 0.3, 0.2], 0.25, [False, True, False, False]),
        ([0.1, 0.4, 0.3, 0.2, 0.0], 0.25, [False, True, True, False, False]),  # the number is rounded up
        ([0.4, 0.1, 0.4, 0.2], 0.25, [True, False, True, False]),  # equal scores cannot be told apart
        ([0.0, None, -1.0, None], 0.75, [True, False, True, False]),
        ([None, None], 0.5, [True, True]),
        ([0.3], 0.25, [True]),
        ([], 0.25, []),
    ],
)
def test_the_best_go_on(scores, keep, expected):
    assert go_on(scores, keep) == expected


def trained(halving: Halving, curves: dict[str, list[float]], draw: random.Random) -> list[tuple[str, int]]:
    """Trains trials, each with its scores at the rungs, which arrive in a random order; what was trained to where."""
    running, order = [], []
    while not halving.over:
        while (taken := halving.take()) is not None:
            running.append(taken)
        order.append(running.pop(draw.randrange(len(running))))
        id, rung = order[-1]
        if rung == len(RUNGS):
            halving.finish(id)
        else:
            halving.arrive(id, curves[id][rung])
    return order


def test_trials_are_compared_by_their_newest_scores_and_one_that_is_not_finite_is_the_worst():
    scores = {"a": [0.9, 0.1], "b": [0.8, None], "c": [0.3, 0.4], "d": [0.2, 0.3]}
    halving = Halving([RankedTrial(id, list(known)) for id, known in scores.items()], (Rung(0.25, 1.0), Rung(0.5, 0.5)))
    assert halving.stopped == ["a", "b"]


CURVES = {"a": [0.5, 0.6], "b": [0.4, 0.7], "c": [0.55, 0.5], "d": [0.2, 0.9], "e": [0.1, 0.1]}


def test_trials_that_are_stopped_do_not_depend_on_the_order_in_which_trials_arrive():
    for seed in range(20):
        halving = Halving([RankedTrial(id) for id in CURVES], RUNGS)
        order = trained(halving, CURVES, random.Random(seed))
        assert dict(sorted(order)) == {"a": 2, "b": 2, "c": 1, "d": 0, "e": 0}
        assert len(order) == 5 + 3 + 2, "nothing is trained twice"
        assert sorted(halving.stopped) == ["c", "d", "e"]
        assert halving.stopped[-1] == "c", "the first rung is decided first"


def test_a_launch_that_knows_what_an_earlier_one_has_measured_goes_on_where_that_was_killed():
    """Killed after every number of arrivals, in any order."""
    for seed, kill in itertools.product(range(5), range(10)):
        known, draw = {id: RankedTrial(id) for id in CURVES}, random.Random(seed)
        halving, heard = Halving(list(known.values()), RUNGS), []
        for _ in range(kill):
            if (taken := halving.take()) is not None:
                id, rung = taken
                halving.finish(id) if rung == len(RUNGS) else halving.arrive(id, CURVES[id][rung])
        again = Halving(list(known.values()), RUNGS, heard.append)
        decided = sorted(again.stopped)
        assert decided == sorted(halving.stopped) and heard == []
        trained(again, CURVES, draw)
        assert sorted(again.stopped) == ["c", "d", "e"] == sorted([*decided, *heard])


def test_without_rungs_every_trial_trains_to_its_end():
    halving = Halving([RankedTrial("a"), RankedTrial("b", finished=True), RankedTrial("c", failed=True)])
    assert (halving.take(), halving.take(), halving.over) == (("a", 0), None, False)
    halving.finish("a")
    assert halving.over and halving.stopped == []


def test_a_trial_that_cannot_be_compared_counts_but_takes_no_place():
    """Of four trials one goes on, although one has failed and one was finished before there were rungs."""
    trials = [RankedTrial("a"), RankedTrial("b", failed=True), RankedTrial("c"), RankedTrial("d", finished=True)]
    halving = Halving(trials, [Rung(0.5, 0.25)])
    for id, score in (("a", 0.1), ("c", 0.2)):
        assert halving.take() == (id, 0)
        halving.arrive(id, score)
    assert halving.stopped == ["a"] and halving.take() == ("c", 1)


def test_if_all_that_went_on_have_failed_the_best_of_the_stopped_trials_goes_on():
    heard = []
    halving = Halving([RankedTrial(id) for id in "abcd"], [Rung(0.5, 0.25)], heard.append)
    for score in (0.1, 0.4, 0.3, 0.2):
        halving.arrive(halving.take()[0], score)
    assert heard == halving.stopped == ["a", "c", "d"]
    for expected in ("b", "c", "d", "a"):
        assert halving.take() == (expected, 1)
        halving.fail(expected)
    assert halving.over and halving.stopped == []
    assert Halving([RankedTrial(id, failed=True) for id in "ab"], [Rung(0.5, 0.25)]).over


def test_more_trials_may_bring_back_one_that_was_stopped_and_a_finished_one_stays():
    """As when `tune.trials` is raised."""
    known = [RankedTrial("a", [0.5], finished=True), RankedTrial("b", [0.4]), RankedTrial("c", [0.1])]
    assert Halving(known, [Rung(0.5, 0.25)]).stopped == ["b", "c"]
    halving = Halving([*known, *map(RankedTrial, "defgh")], [Rung(0.5, 0.25)])
    for _ in "defgh":
        halving.arrive(halving.take()[0], 0.2)
    assert "b" not in halving.stopped and halving.take() == ("b", 1)


@pytest.mark.parametrize(("trials", "share"), [(4, 0.59375), (6, 0.5), (8, 0.5234375), (12, 0.5), (1, 1)])
def test_what_early_stopping_costs(trials, share):
    assert full_trainings(trials, OWN_RUNGS) == pytest.approx(share * trials, rel=1e-6)
    assert full_trainings(trials, ()) == trials


def test_the_expected_cost_is_that_of_the_trainings():
    """Five trials: 5 to a quarter of the steps, 3 to the half, 2 to the end."""
    order = trained(Halving([RankedTrial(id) for id in CURVES], RUNGS), CURVES, random.Random(0))
    shares = [RUNGS[0].share, RUNGS[1].share - RUNGS[0].share, 1 - RUNGS[1].share]
    assert full_trainings(5, RUNGS) == pytest.approx(sum(shares[rung] for _, rung in order))
