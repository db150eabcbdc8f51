"""Parameter budgets: parsing, uniform ranks, the ledger and growth decisions."""

from itertools import chain, combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapad_ray.budget import (
    LAST_COMPONENTS,
    BudgetTooSmallError,
    ComponentRequest,
    GrowthRequest,
    GrowthSchedule,
    Ledger,
    ModuleShape,
    decide_components,
    decide_growth,
    most_valuable,
    parse_budget,
    uniform_rank,
)
from adapad_ray.errors import BadRequestError

# DeBERTaV3-base as 2605.10741 adapts it: 12 layers of query, key, value, attention output and both feed-forward layers.
DEBERTA = tuple(
    ModuleShape(f"{layer}.{name}", d_in, d_out)
    for layer in range(12)
    for name, d_in, d_out in [
        *((square, 768, 768) for square in ("query", "key", "value", "output")),
        ("intermediate", 768, 3072),
        ("down", 3072, 768),
    ]
)
COSTS = {m.name: m.component_cost for m in DEBERTA}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (41472, 41_472),
        ("41472", 41_472),
        ("41,472", 41_472),
        ("40k", 40_000),
        ("10.4k", 10_400),
        ("0.33M", 330_000),
        ("1 m", 1_000_000),
        ("1.5%", 2_760_000),
        ("0.5 %", 920_000),
        ("144 ranks", 331_776),
        ("72 ranks", 165_888),
        ("1 rank", 2304),
        (1e4, 10_000),
        ("1e4", 10_000),
        ("0100", 100),
        ("10.4567k", 10_456),
    ],
)
def test_a_budget_is_parameters_a_share_or_components(value, expected):
    assert parse_budget(value, modules=DEBERTA, backbone_parameters=184_000_000) == expected


@pytest.mark.parametrize(
    "value",
    ["", "many", "-5", "1.5x", "k", True, "12 ranks each", 0, "0%", "0.1", 1000.5, "0,5%", "1,5k", "10,40", "10k,20k",
     1e30, float("inf"), float("nan")],
)  # fmt: skip
def test_anything_else_is_rejected_in_one_line(value):
    with pytest.raises(BadRequestError) as error:
        parse_budget(value, modules=DEBERTA, backbone_parameters=184_000_000)
    assert f"budget {str(value)!r}" in str(error.value) and "\n" not in str(error.value)


def test_one_rank_of_deberta_is_the_published_count():
    assert len(DEBERTA) == 72
    assert sum(COSTS.values()) == 165_888


def test_uniform_rank_is_the_largest_that_fits():
    assert uniform_rank(331_776, DEBERTA, COSTS) == 2
    assert uniform_rank(331_775, DEBERTA, COSTS) == 1
    assert uniform_rank(10**12, DEBERTA, COSTS) == 768, "no rank above a dimension"
    with pytest.raises(BudgetTooSmallError, match="budget 165,887 is below one component on each of 72 modules"):
        uniform_rank(165_887, DEBERTA, COSTS)


@pytest.mark.parametrize(("budget", "named"), [(min(COSTS.values()), True), (min(COSTS.values()) - 1, False)])
def test_another_allocation_is_named_only_where_one_component_fits(budget, named):
    with pytest.raises(BudgetTooSmallError) as error:
        uniform_rank(budget, DEBERTA, COSTS, else_set="allocation: random")
    assert str(error.value).endswith("or set allocation: random") == named


def test_the_ledger_never_exceeds_its_budget():
    ledger = Ledger(100)
    ledger.charge(60)
    assert ledger.remaining == 40 and ledger.fits(40) and not ledger.fits(41)
    with pytest.raises(ValueError, match="60 of 100 are spent"):
        ledger.charge(41)
    assert ledger.spent == 60
    ledger.charge(40)
    assert ledger.remaining == 0


def test_growth_is_due_at_every_interval_and_releases_equal_shares():
    schedule = GrowthSchedule(start=10, end=50, interval=10)
    assert [step for step in range(100) if schedule.due(step)] == [10, 20, 30, 40, 50]
    assert [step for step in range(100) if schedule.last(step)] == [50]
    assert [schedule.released(s, 1100, 100) for s in (10, 20, 30, 40, 50)] == [300, 500, 700, 900, 1100]


@given(st.integers(1, 50), st.integers(0, 100), st.integers(1, 30), st.integers(1, 10**6), st.data())
def test_the_last_growth_releases_everything_for_any_interval(start, length, interval, budget, data):
    schedule = GrowthSchedule(start, start + length, interval)
    initial = data.draw(st.integers(0, budget))
    due = [step for step in range(start + length + 2) if schedule.due(step)]
    released = [schedule.released(step, budget, initial) for step in due]
    assert [schedule.last(step) for step in due] == [False] * (len(due) - 1) + [True]
    assert released[-1] == budget
    assert released == sorted(released) and released[0] >= initial


def requests(*scores, cost=10, room=3):
    return [GrowthRequest(name, score, cost, room) for name, score in zip("abcdef", scores, strict=False)]


def test_modules_above_the_threshold_grow_once_best_first():
    ledger = Ledger(1000)
    decision = decide_growth(requests(1.0, 5.0, 3.0, 0.5), ledger, released=1000, threshold=1.0, last=False)
    assert decision.modules == ["b", "c"], "the mean is 2.375"
    assert ledger.spent == 20


def test_the_quota_stops_growth_before_the_budget_does():
    ledger = Ledger(1000)
    assert decide_growth(requests(3.0, 2.0, 1.0), ledger, released=25, threshold=0, last=False).modules == ["a", "b"]
    assert decide_growth(requests(3.0, 2.0, 1.0), ledger, released=25, threshold=0, last=False).modules == []


def test_ties_go_to_the_earlier_module():
    decision = decide_growth(requests(2.0, 7.0, 2.0, 7.0), Ledger(30), released=30, threshold=0, last=False)
    assert decision.modules == ["b", "d", "a"]


def test_a_component_that_does_not_fit_is_skipped():
    wanted = [GrowthRequest("wide", 5.0, 40, 1), GrowthRequest("narrow", 4.0, 10, 1)]
    assert decide_growth(wanted, Ledger(30), released=30, threshold=0, last=False).modules == ["narrow"]


def test_the_last_growth_ignores_the_threshold_and_repeats_until_nothing_fits():
    ledger = Ledger(55)
    decision = decide_growth(requests(1.0, 5.0, 3.0, room=2), ledger, released=55, threshold=9.0, last=True)
    assert decision.modules == ["b", "c", "a", "b", "c"]
    assert ledger.remaining == 5


def test_a_module_without_room_does_not_grow_and_does_not_enter_the_mean():
    full = GrowthRequest("full", 100.0, 10, 0)
    decision = decide_growth([full, *requests(1.0, 3.0)], Ledger(100), released=100, threshold=1.0, last=False)
    assert decision.modules == ["b"]
    assert decide_growth([full], Ledger(100), released=100, threshold=0, last=True).modules == []


REQUESTS = st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 500), st.integers(0, 4)), max_size=12).map(
    lambda rows: [GrowthRequest(str(i), *row) for i, row in enumerate(rows)]
)


@settings(max_examples=200)
@given(REQUESTS, st.integers(1, 3000), st.floats(0, 1), st.floats(0, 3), st.booleans(), st.data())
def test_growth_never_exceeds_budget_quota_or_room(wanted, budget, share, threshold, last, data):
    ledger = Ledger(budget, spent=data.draw(st.integers(0, budget)))
    before, released = ledger.spent, int(share * budget)
    decision = decide_growth(wanted, ledger, released=released, threshold=threshold, last=last)
    cost = {r.module: r.cost for r in wanted}
    given_to = {r.module: decision.modules.count(r.module) for r in wanted}
    assert ledger.spent == before + sum(cost[name] for name in decision.modules) <= budget
    assert ledger.spent <= max(before, released)
    assert all(given_to[r.module] <= (r.room if last else min(1, r.room)) for r in wanted)
    if last:
        left = max(before, released) - ledger.spent
        assert all(r.cost > left for r in wanted if given_to[r.module] < r.room)


def test_components_by_score_pass_over_what_does_not_fit():
    requests = [ComponentRequest("a", 3.0, 60), ComponentRequest("b", 2.0, 50), ComponentRequest("c", 1.0, 40)]
    ledger = Ledger(100)
    assert decide_components(requests, ledger, released=100) == ["a", "c"]
    assert ledger.spent == 100


def test_one_large_component_gives_way_to_small_ones_that_are_worth_more_together():
    small = [ComponentRequest(f"small {n}", 1.1 - n / 100, 768) for n in range(4)]
    requests = [ComponentRequest("large", 1.2, 1920), *small]
    ledger = Ledger(2304)
    assert most_valuable(requests, ledger, released=2304) == ["small 0", "small 1", "small 2"]
    assert ledger.spent == 2304


def test_of_sets_that_are_worth_the_same_one_spends_what_there_is():
    requests = [ComponentRequest("small", 2.0, 768), ComponentRequest("large", 0.8, 1920)]
    assert most_valuable(requests, Ledger(1920), released=1920) == ["large"]
    assert most_valuable([], Ledger(1920), released=1920) == most_valuable(requests, Ledger(500), released=500) == []


def test_without_scores_the_earlier_components_are_first():
    requests = [ComponentRequest("a", 0.0, 60), ComponentRequest("b", 0.0, 60), ComponentRequest("c", 0.0, 40)]
    assert most_valuable(requests, Ledger(160), released=160) == ["a", "b", "c"]
    assert most_valuable(requests, Ledger(100), released=100) == ["a", "c"]


@settings(deadline=None)
@given(
    offered=st.lists(st.tuples(st.sampled_from([2, 3, 5]), st.integers(0, 9)), max_size=8),
    budget=st.integers(0, 20),
)
def test_no_other_set_of_components_is_worth_more(offered, budget):
    requests = [ComponentRequest(str(n), float(score), cost) for n, (cost, score) in enumerate(offered)]
    by_module, ledger = {request.module: request for request in requests}, Ledger(budget)
    chosen = [by_module[module] for module in most_valuable(requests, ledger, released=budget)]
    assert ledger.spent == sum(request.cost for request in chosen) <= budget
    sets = chain.from_iterable(combinations(requests, size) for size in range(len(requests) + 1))
    best = max(worth(some) for some in sets if sum(request.cost for request in some) <= budget)
    assert worth(chosen) == best


def worth(requests):
    return sum(request.score * request.cost for request in requests)


def test_with_room_for_many_the_highest_scores_are_taken_and_the_end_is_spent_well():
    requests = [ComponentRequest(f"{n}", 1000.0 - n, 7 if n % 3 else 10) for n in range(1000)]
    ledger = Ledger(5000)
    chosen = most_valuable(requests, ledger, released=5000)
    assert ledger.spent == 5000
    first = len(chosen) - LAST_COMPONENTS * 2
    assert chosen[:first] == [str(n) for n in range(first)]
