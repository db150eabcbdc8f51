"""Ranks that are learnt through one number each, under a hard budget (ARD-LoRA-style, 2506.18267)."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from adapad_ray.adapters.lane import Lane
from adapad_ray.budget import BudgetTooSmallError, ModuleShape
from adapad_ray.methods.ard import Ard, ArdConfig, RankRequest, capped_ranks
from adapad_ray.methods.plan import CellContext
from adapad_ray.testing import COST_PER_RANK, MethodCase, uninterrupted

# The rule: max(1, round(request − τ)) with the smallest τ that meets the budget


@pytest.mark.parametrize(
    ("requested", "rank"), [(0.0, 1), (0.4, 1), (1.49, 1), (1.5, 2), (2.0, 2), (2.5, 3), (3.6, 4), (9.0, 4)]
)
def test_a_request_is_rounded_but_never_below_one_nor_above_the_most(requested, rank):
    assert capped_ranks([RankRequest(requested, cost=1, most=4)], budget=100) == ([rank], 0.0)


def test_over_budget_the_smallest_excess_goes_first():
    requests = [RankRequest(3.0, 10, 5), RankRequest(2.6, 10, 5), RankRequest(1.9, 10, 5)]  # rounded: 3, 3, 2
    assert capped_ranks(requests, 80) == ([3, 3, 2], 0.0)
    ranks, shift = capped_ranks(requests, 79)
    assert ranks == [3, 2, 2] and shift == pytest.approx(0.1)
    ranks, shift = capped_ranks(requests, 60)
    assert ranks == [3, 2, 1] and shift == pytest.approx(0.4)


@settings(deadline=None)
@given(
    requests=st.lists(st.tuples(st.floats(0, 6), st.integers(1, 9), st.integers(1, 6)), min_size=1, max_size=6),
    extra=st.integers(0, 60),
)
def test_the_budget_holds_and_what_is_refused_lies_within_the_shift(requests, extra):
    requests = [RankRequest(*w) for w in requests]
    budget = sum(w.cost for w in requests) + extra
    ranks, shift = capped_ranks(requests, budget)
    rounded = [max(1, min(w.most, math.floor(w.rank + 0.5))) for w in requests]
    free = budget - sum(rank * w.cost for rank, w in zip(ranks, requests, strict=True))
    assert free >= 0 and shift >= 0
    if sum(rank * w.cost for rank, w in zip(rounded, requests, strict=True)) <= budget:
        assert ranks == rounded and shift == 0
    for rank, most, request in zip(ranks, rounded, requests, strict=True):
        assert rank == most or (1 <= rank < most and request.rank - (rank + 0.5) <= shift)


@settings(deadline=None)
@given(requests=st.lists(st.floats(0, 4), min_size=1, max_size=4), extra=st.integers(0, 8))
def test_with_equal_costs_no_other_ranks_keep_more_of_what_was_requested(requests, extra):
    """Against every way to share out the budget; a component counts by how far its request is above its threshold."""

    def kept(ranks):
        pairs = zip(ranks, requests, strict=True)
        return sum(request - (j - 0.5) for rank, request in pairs for j in range(2, rank + 1))

    rounded = [max(1, math.floor(request + 0.5)) for request in requests]
    shares = itertools.product(*(range(1, rank + 1) for rank in rounded))
    best = max(kept(ranks) for ranks in shares if sum(ranks) <= len(requests) + extra)
    ranks, _ = capped_ranks([RankRequest(request, 1, 9) for request in requests], len(requests) + extra)
    assert kept(ranks) == pytest.approx(best, abs=1e-9)


# What is planned


def test_the_smallest_adapter_has_one_component_on_every_unit():
    """12 modules of the tiny backbone: q, k, v, o in two heads (4 · 2 · 48) and two MLP layers (2 · 96), twice."""
    per_head = 2 * (4 * 2 * 48 + 2 * 96)
    with pytest.raises(
        BudgetTooSmallError, match=rf"1,151 is below rank 1 on each of 20 units of 12 modules \({per_head:,}\)"
    ):
        MethodCase("ard", per_head - 1).make().plan()
    assert MethodCase("ard", per_head).make().family.initial_rank == 1
    with pytest.raises(BudgetTooSmallError, match=r"on each of 12 units of 12 modules \(896\)"):
        MethodCase("ard", COST_PER_RANK - 1, {"unit": "module"}).make().plan()


def test_training_begins_with_the_largest_uniform_rank_and_may_end_at_the_budget():
    method = MethodCase("ard", 3 * COST_PER_RANK + 100, {"unit": "module"}).make()
    plan = method.plan()
    assert method.family.initial_rank == 3
    assert plan.parameters == 3 * COST_PER_RANK + 100 and plan.ranks is None
    assert plan.peak_parameters == 6 * COST_PER_RANK + 12, "twice the initial rank, and one α for each module"
    assert set(method.scales().values()) == {2.0 / 3}


# What training does


def test_with_alpha_at_rest_it_is_lora():
    """α that cannot move, no spare components, no penalty: bitwise the losses of LoRA of rank r₀."""
    config = {"unit": "module", "alpha_max": 1.0, "alpha_rate": 1e-9, "sparsity": 0.0}
    lora = uninterrupted(MethodCase("lora", 2 * COST_PER_RANK))
    ours = uninterrupted(MethodCase("ard", 2 * COST_PER_RANK, config))
    assert ours.record.losses == pytest.approx(lora.record.losses, rel=1e-6)
    assert set(ours.adapted.ranks.values()) == {2}


def test_a_heavy_penalty_drives_every_rank_to_one():
    config = {"unit": "module", "sparsity": 1e4, "stability": 0.0, "alpha_rate": 40.0, "rank_interval": 1}
    trainer = MethodCase("ard", 3 * COST_PER_RANK, config).trainer()
    trainer.start()
    trainer.run(stop_at=14)
    assert set(trainer.adapted.ranks.values()) == {1}
    alpha = torch.cat([block.alpha.detach() for _, block in trainer.method._blocks()])
    assert alpha.min() >= 0


def test_every_change_of_a_rank_is_on_record():
    config = {"unit": "module", "alpha_rate": 60.0, "rank_interval": 2}
    case = MethodCase("ard", 3 * COST_PER_RANK, config)
    trainer = case.trainer()
    trainer.start()
    seen = dict(trainer.adapted.ranks)
    for step in range(1, trainer.total_steps + 1):
        trainer.run(stop_at=step)
        events = [event for event in trainer.record.growth if event.step == step]
        changed = {name: rank for name, rank in trainer.adapted.ranks.items() if rank != seen[name]}
        assert {event.module: event.rank for event in events} == changed
        assert all(event.spent == trainer.adapted.active_parameters() for event in events)
        seen |= changed
    assert len(trainer.record.growth) > 3 and len(set(seen.values())) > 1


def test_the_total_variation_makes_ranks_steadier():
    def changes(stability):
        config = {"unit": "module", "alpha_rate": 60.0, "rank_interval": 3, "sparsity": 1e-6, "stability": stability}
        return len(uninterrupted(MethodCase("ard", 3 * COST_PER_RANK, config)).record.growth)

    assert changes(1e7) < changes(0.0)


class HeadProblem:
    """min ½‖Y − X (s B A)ᵀ‖² where the part of Y that belongs to head h has rank `RANKS[h]`."""

    RANKS = (1, 4, 2, 1)

    def __init__(self, budget: int, **config) -> None:
        draw = torch.Generator().manual_seed(2)
        d_in, d_head = 12, 5
        parts = []
        for rank in self.RANKS:
            left = torch.linalg.qr(torch.randn(d_head, rank, generator=draw))[0]
            right = torch.linalg.qr(torch.randn(d_in, rank, generator=draw))[0]
            parts.append(left @ right.T)
        self.x = torch.randn(64, d_in, generator=draw)
        self.y = self.x @ torch.cat(parts).T
        model = nn.Sequential(nn.Linear(d_in, 4 * d_head, bias=False)).requires_grad_(False)
        model[0].weight.zero_()
        shape = ModuleShape("0", d_in, 4 * d_head, heads=4)
        context = CellContext((shape,), budget, total_steps=10_000, seed=0)
        self.method = Ard(ArdConfig(**config), context)
        self.adapted = self.method.adapt(model, [])
        self.generator = torch.Generator().manual_seed(0)
        self.method.build(self.generator)

    def train(self, steps: int) -> list[int]:
        (lane,) = self.method.lanes(0)
        optimizer = torch.optim.Adam(self.adapted.parameters(lane), lr=5e-3)
        self.adapted.use(lane)
        for step in range(1, steps + 1):
            loss = 0.5 * (self.y - self.adapted.model(self.x)).square().mean() + self.method.penalty(lane)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % self.method.local_steps == 0:
                self.method.end_round(step, self.generator)
        self.loss = float(loss.detach())
        return self.adapted.layers["0"].active()[0].unit_ranks


COMPONENT = 12 + 5


def test_heads_that_need_more_get_more_of_a_budget_that_is_met():
    """The budget has room for the ranks that are needed and no more; training begins with 2 everywhere."""
    problem = HeadProblem(8 * COMPONENT, sparsity=0.01)
    assert problem.method.family.initial_rank == 2
    ranks = problem.train(1500)
    assert sum(ranks) <= 8
    assert ranks[1] == max(ranks) > 2 and ranks[0] < 2 and ranks[3] < 2


def test_without_a_tight_budget_ranks_grow_to_what_is_needed():
    problem = HeadProblem(100 * COMPONENT, initial_rank=2, alpha_max=2.0, sparsity=0.003)
    ranks = problem.train(1500)
    assert ranks[1] == 4
    assert problem.adapted.deployed_parameters(Lane.prefix(1)) == sum(ranks) * COMPONENT
