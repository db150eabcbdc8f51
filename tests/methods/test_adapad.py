"""What AdaPaD does: deflation, self-correction, stagger, advance learning and rank discovery (2605.10741)."""

from contextlib import contextmanager
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from adapad_ray.adapters.export import deployed_adapter
from adapad_ray.adapters.lane import RESERVE, Lane
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.budget import BudgetTooSmallError, ModuleShape
from adapad_ray.methods.adapad import Adapad, AdapadConfig
from adapad_ray.methods.plan import CellContext
from adapad_ray.testing import COST_PER_RANK, MethodCase, assert_same_training, tiny_backbone, tiny_task

# Deflation on a linear problem, where the answer is an SVD


class LinearProblem:
    """min ½‖Y − Σ b_k a_kᵀ X‖² in fp64 through the lanes of a bias-free linear layer with W₀ = 0.

    The rows of X are orthonormal, so gradient descent contracts at a rate that the gaps of the spectrum set.
    """

    SPECTRUM = (1.0, 0.7, 0.4, 0.15, 0.1)

    def __init__(self, rank: int = 3, local_steps: int = 5) -> None:
        d_in, d_out, n = 6, 5, 20
        draw = torch.Generator().manual_seed(3)
        x = torch.linalg.qr(torch.randn(n, d_in, generator=draw, dtype=torch.float64))[0]  # [n, d_in]
        u = torch.linalg.qr(torch.randn(d_out, d_out, generator=draw, dtype=torch.float64))[0]
        v = torch.linalg.qr(torch.randn(d_in, d_out, generator=draw, dtype=torch.float64))[0]
        off = torch.randn(n, d_out, generator=draw, dtype=torch.float64)
        self.x = x
        self.y = x @ v @ torch.diag(torch.tensor(self.SPECTRUM, dtype=torch.float64)) @ u.T + off - x @ (x.T @ off)
        model = nn.Sequential(nn.Linear(d_in, d_out, bias=False)).double().requires_grad_(False)
        model[0].weight.zero_()
        shape = ModuleShape("0", d_in, d_out)
        self.adapted = AdaptedModel(model, [shape], [])
        context = CellContext((shape,), rank * shape.component_cost, total_steps=10_000, seed=0)
        self.method = Adapad(AdapadConfig(initial_rank=rank, local_steps=local_steps), context)
        self.generator = torch.Generator().manual_seed(0)
        self.method.adapted = self.adapted
        self.method.build(self.generator)
        self.layer = self.adapted.layers["0"].double()
        self.steps = 0

    def loss(self, lane: Lane) -> torch.Tensor:
        self.adapted.use(lane)
        return 0.5 * (self.y - self.adapted.model(self.x)).square().sum()

    def descend(self, lane: Lane, rate: float = 0.5) -> None:
        parameters = self.adapted.parameters(lane)
        for p, gradient in zip(parameters, torch.autograd.grad(self.loss(lane), parameters), strict=True):
            p.data.sub_(rate * gradient)

    def rounds(self, count: int) -> None:
        """Trains as the training loop does: T steps of every lane, then all publish together."""
        for _ in range(count * self.method.local_steps):
            for lane in self.method.lanes(self.steps):
                self.descend(lane)
            self.steps += 1
            if self.steps % self.method.local_steps == 0:
                self.method.end_round(self.steps, self.generator)
                self.adapted.publish(self.method.published(self.steps))

    def errors(self) -> list[float]:
        """Relative distance of every published product b_k a_kᵀ X from the k-th term of the SVD of Y on X's rows."""
        projected = (self.x @ (self.x.T @ self.y)).T  # [d_out, n]
        u, s, vh = torch.linalg.svd(projected, full_matrices=False)
        return [
            float(
                (block.published_b.T @ block.published_a @ self.x.T - s[k] * torch.outer(u[:, k], vh[k])).norm() / s[k]
            )
            for k, block in enumerate(self.layer.active())
        ]


@pytest.mark.parametrize("local_steps", [1, 5])
def test_every_component_converges_to_its_term_of_the_svd(local_steps):
    problem = LinearProblem(local_steps=local_steps)
    problem.rounds(600 // local_steps)
    assert max(problem.errors()) < 1e-6


def test_the_loss_of_a_lane_is_the_distance_to_the_deflation_target():
    problem = LinearProblem()
    problem.rounds(4)
    for k in (1, 2, 3):
        before = problem.layer.active()[: k - 1]
        target = problem.y.T - sum((p.published_b.T @ p.published_a @ problem.x.T for p in before), torch.tensor(0.0))
        own = problem.layer.active()[k - 1]
        expected = 0.5 * (target - own.b.T @ own.a @ problem.x.T).square().sum()
        torch.testing.assert_close(problem.loss(Lane.deflation(k)), expected)


def test_descendants_recover_once_a_wrong_predecessor_is_released():
    problem = LinearProblem()
    problem.rounds(3)
    first = problem.layer.active()[0]
    wrong = torch.randn(first.a.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    with torch.no_grad():
        first.a.copy_(wrong / wrong.norm())
        first.b.fill_(0.3)
    first.publish()
    for _ in range(300):  # the predecessor stands still at its wrong value
        for _ in range(5):
            for lane in (Lane.deflation(2), Lane.deflation(3)):
                problem.descend(lane)
        problem.adapted.publish([2, 3])
    assert min(problem.errors()) > 0.1
    problem.rounds(300)
    assert max(problem.errors()) < 1e-6


def test_sequential_training_keeps_the_error_of_a_frozen_predecessor():
    problem = LinearProblem()
    for k, steps in ((1, 6), (2, 1500), (3, 1500)):  # the first is frozen before it has converged
        for _ in range(steps):
            problem.descend(Lane.deflation(k))
        problem.adapted.publish([k])
    first, *later = problem.errors()
    assert first > 1e-2
    assert min(later) > 1e-3


def test_predecessors_act_through_the_snapshot_until_they_publish():
    problem = LinearProblem(local_steps=5)
    problem.rounds(4)
    lane = Lane.deflation(2)
    before = problem.loss(lane)
    problem.descend(Lane.deflation(1))
    assert torch.equal(problem.loss(lane), before)
    problem.adapted.publish([1])
    assert not torch.equal(problem.loss(lane), before)


# Stagger and advance learning


def started(budget, *, training=None, **config):
    """A trainer that grows by reserves, as in the paper; `test_gradient_growth.py` has the other way."""
    config = {"growth_score": "reserve"} | config
    trainer = MethodCase("adapad", budget, config, training=training or {}).trainer()
    trainer.start()
    return trainer


def live(trainer, k):
    return {n: p.detach().clone() for n, p in trainer.adapted.named_parameters().items() if f"|{k}|" in n}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@contextmanager
def changed(trainer, components):
    """Other live values in these components, for a while."""
    saved = [live(trainer, k) for k in components]
    parameters = trainer.adapted.named_parameters()
    with torch.no_grad():
        for values in saved:
            for name in values:
                parameters[name].add_(1.0)
        yield
        for values in saved:
            for name, value in values.items():
                parameters[name].copy_(value)


@pytest.mark.parametrize("advance", [True, False])
def test_before_round_k_nothing_of_component_k_is_visible(advance):
    trainer = started(3 * COST_PER_RANK, initial_rank=3, local_steps=2, advance_learning=advance)
    period, batch = trainer.method.local_steps, tiny_task().splits["test"].batch(range(8), 0)
    batch.pop("labels")
    untouched = {k: live(trainer, k) for k in (1, 2, 3)}
    for finished in (1, 2, 3):  # rounds
        trainer.run(stop_at=finished * period)
        for k in (1, 2, 3):
            blocks = [layer.active()[k - 1] for layer in trainer.adapted.layers.values()]
            assert any(block.published_b.any() for block in blocks) == (k <= finished)
            assert same(live(trainer, k), untouched[k]) == (k > finished and not advance)
        for lane in trainer.method.lanes(trainer.step):
            seen = [k for k in range(1, lane.frozen + 1) if k <= finished]
            trainer.adapted.use(lane)
            expected = trainer.adapted.model(**batch).logits
            hidden = {k for k in (1, 2, 3) if k not in (*seen, *lane.live)}
            with changed(trainer, hidden):
                assert torch.equal(trainer.adapted.model(**batch).logits, expected)


# The reserve lane


def test_a_reserve_acts_in_its_own_lane_only_and_its_removal_changes_no_other():
    with_reserves, without = (started(2 * COST_PER_RANK, local_steps=2, growth_start=0.9, growth_end=1) for _ in "ab")
    for trainer in (with_reserves, without):
        trainer.run(stop_at=4)
    assert any(layer.reserve.b.any() for layer in without.adapted.layers.values())
    gone = [p for name in without.adapted.layers for p in without.adapted.drop_reserve(name)]
    without.optimizer.forget(gone + without.adapted.drop_head(RESERVE))
    for trainer in (with_reserves, without):
        trainer.run(stop_at=9)
    assert [lane.index for lane in with_reserves.method.lanes(9)] == [1, RESERVE]
    assert [lane.index for lane in without.method.lanes(9)] == [1]
    a, b = (
        {n: t for n, t in trainer.adapted.state().items() if f"|{RESERVE}|" not in n and f"|{RESERVE}." not in n}
        for trainer in (with_reserves, without)
    )
    assert same(a, {name: b[name] for name in a})


def test_an_activated_reserve_keeps_its_values_and_its_adam_state():
    trainer = started(2 * COST_PER_RANK, local_steps=2, growth_start=0.3)
    trainer.run(stop_at=3)
    reserves = {name: layer.reserve for name, layer in trainer.adapted.layers.items()}
    adam = trainer.optimizer._inner.state
    trainer.run(stop_at=4)
    grown = [event.module for event in trainer.record.growth]
    assert grown and len(grown) < len(reserves)
    values = {name: reserves[name].b.detach().clone() for name in grown}
    for name in grown:
        block = trainer.adapted.layers[name].active()[-1]
        assert block is reserves[name]
        assert float(adam[block.b]["step"]) == 4
        assert torch.equal(block.published_b, values[name]) and values[name].any()
        assert trainer.method.scores.value(name) == 0, "the next reserve is judged by itself"
    trainer.run(stop_at=5)
    assert all(float(adam[reserves[name].b]["step"]) == 5 for name in grown)


def test_the_optimizer_forgets_what_learns_no_longer():
    trainer = started(2 * COST_PER_RANK, local_steps=1)
    for step in range(1, trainer.total_steps + 1):
        trainer.run(stop_at=step)
        known = {p for group in trainer.optimizer._inner.param_groups for p in group["params"]}
        assert known == set(trainer.adapted.named_parameters().values()) == set(trainer.optimizer._births)
        assert trainer.optimizer._inner.state.keys() <= known


def test_a_new_lane_copies_the_head_of_the_lane_below():
    trainer = started(2 * COST_PER_RANK, local_steps=2, growth_start=0.3)
    trainer.run(stop_at=4)
    copies = trainer.adapted.heads["classifier"].copies
    assert sorted(copies) == ["-1", "1", "2"]
    assert torch.equal(copies["2"].weight, copies["1"].weight)
    assert not torch.equal(copies["1"].weight, trainer.adapted.heads["classifier"].base.weight)
    trainer.run(stop_at=5)
    assert not torch.equal(copies["2"].weight, copies["1"].weight)


def test_from_rank_zero_a_head_only_lane_trains_until_the_first_activation():
    trainer = started(500, initial_rank=0, local_steps=2)
    assert [lane.index for lane in trainer.method.lanes(0)] == [0, RESERVE]
    trainer.run(stop_at=1)
    head = trainer.adapted.heads["classifier"]
    assert not torch.equal(head.copies["0"].weight, head.base.weight)
    trainer.run()
    assert sorted(head.copies) == [str(k) for k in range(1, trainer.adapted.blocks + 1)]
    assert any(rank == 0 for rank in trainer.adapted.ranks.values())


# Rank discovery


@pytest.mark.parametrize(
    ("budget", "config"),
    [
        (2 * COST_PER_RANK, {"local_steps": 2}),
        (2 * COST_PER_RANK + 63, {"local_steps": 4, "r_max": 3}),
        (1111, {"initial_rank": 0, "r_max": 2}),
        (3 * COST_PER_RANK, {"local_steps": 50}),
        (2 * COST_PER_RANK, {"local_steps": 2, "growth_end": 1.0}),
        (2 * COST_PER_RANK, {"local_steps": 4, "growth_start": 1.0, "growth_end": 1.0}),
    ],
)
def test_ranks_grow_until_nothing_fits(budget, config):
    trainer = started(budget, **config)
    initial = trainer.method.ledger.spent
    trainer.run()
    ranks, costs, limits = trainer.adapted.ranks, trainer.method.costs, trainer.method.limits
    spent = sum(rank * costs[name] for name, rank in ranks.items())
    assert trainer.method.ledger.spent == spent <= budget
    assert all(rank <= limits[name] for name, rank in ranks.items())
    assert budget - spent < min(cost for name, cost in costs.items() if ranks[name] < limits[name])
    charges = [event.spent for event in trainer.record.growth]
    assert charges[0] > initial and charges == sorted(charges) and charges[-1] == spent
    assert not trainer.method.growing and str(RESERVE) not in trainer.adapted.heads["classifier"].copies


def test_ranks_differ_between_modules():
    trainer = started(2 * COST_PER_RANK, local_steps=1)
    trainer.run()
    ranks = trainer.adapted.ranks.values()
    assert min(ranks) == 1 and max(ranks) >= 3


def test_growth_releases_the_budget_in_linear_quotas_and_ends_on_time():
    trainer = started(3 * COST_PER_RANK, local_steps=1, growth_start=0.2, growth_end=0.6, growth_interval=2)
    trainer.run()
    schedule = trainer.method.schedule
    assert (schedule.start, schedule.end, schedule.interval) == (3, 9, 2)
    for event in trainer.record.growth:
        assert event.step in (3, 5, 7, 9)
        assert event.spent <= schedule.released(event.step, 3 * COST_PER_RANK, COST_PER_RANK)


def test_the_lanes_in_growth_are_at_most_one_more_than_the_largest_rank():
    trainer = started(1250, local_steps=1, r_max=2, growth_start=0.3)
    most = 0
    for step in range(trainer.total_steps):
        most = max(most, len(trainer.method.lanes(step)))
        trainer.run(stop_at=step + 1)
    assert most == 3 == trainer.method.plan().lanes


def test_a_full_budget_at_the_initial_rank_leaves_nothing_to_discover():
    method = MethodCase("adapad", COST_PER_RANK).make()
    assert set(method.plan().ranks.values()) == {1}


@pytest.mark.parametrize(
    ("budget", "initial_rank", "r_max"),
    [(64, 0, 1), (COST_PER_RANK - 1, 0, 1), (COST_PER_RANK, 1, 2), (4 * COST_PER_RANK, 1, 5)],
)
def test_the_defaults_suit_the_budget(budget, initial_rank, r_max):
    method = MethodCase("adapad", budget).make()
    assert (method.initial_rank, method.r_max) == (initial_rank, r_max)
    assert method.plan().parameters <= budget


def test_with_one_component_per_module_it_is_lora_of_rank_1():
    trainers = [MethodCase(method, COST_PER_RANK).trainer() for method in ("adapad", "lora")]
    for trainer in trainers:
        trainer.start()
    ours, theirs = (trainer.run() for trainer in trainers)
    assert ours.losses == theirs.losses and ours.work.lane_passes == theirs.work.lane_passes


def test_below_one_component_per_module_one_lane_trains_the_whole_adapter():
    trainer = started(500, local_steps=2)
    grown = trainer.run().growth
    assert grown and {event.rank for event in grown} == {1}
    assert [lane.index for lane in trainer.method.lanes(trainer.method.context.total_steps - 1)] == [1]


@pytest.mark.parametrize(
    ("budget", "config", "fits"),
    [
        (COST_PER_RANK - 1, {"initial_rank": 1}, True),
        (63, {"initial_rank": 1}, False),
        (COST_PER_RANK - 1, {"advance_learning": False}, False),
    ],
)
def test_the_setting_that_makes_a_small_budget_fit_is_named_where_it_does(budget, config, fits):
    with pytest.raises(BudgetTooSmallError) as error:
        MethodCase("adapad", budget, config=config).make().plan()
    assert ("set initial_rank: 0" in str(error.value)) == fits


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="needs advance_learning"):
        AdapadConfig(initial_rank=0, advance_learning=False)
    with pytest.raises(ValidationError, match="growth_end"):
        AdapadConfig(growth_start=0.5, growth_end=0.4)
    with pytest.raises(ValidationError, match="r_max"):
        AdapadConfig(initial_rank=3, r_max=2)


# The joint tail

TAILS = [
    {"local_steps": 2, "joint_fraction": 0.3},
    {"initial_rank": 3, "local_steps": 1, "staleness": 4, "joint_fraction": 0.1},
    {"initial_rank": 0, "joint_fraction": 0.4},
    {"family": "cp", "local_steps": 3, "joint_fraction": 0.2},
]


def exported(trainer):
    """Adapter and head of every prefix, the final model left out."""
    adapters = [deployed_adapter(trainer.adapted, d.lane) for d in trainer.method.deployables()[1:]]
    factors = [
        {f"{n} {i}": f for n, pair in adapter.factors.items() for i, f in enumerate(pair)} for adapter in adapters
    ]
    return [{n: t.clone() for n, t in (a.head | f).items()} for a, f in zip(adapters, factors, strict=True)]


@pytest.mark.parametrize("config", TAILS, ids=str)
def test_prefixes_are_taken_before_the_tail(config):
    trainer = started(3 * COST_PER_RANK, **config)
    trainer.run(stop_at=trainer.method.joint_start)
    before = exported(trainer)
    published = [live(trainer, k) for k in range(1, trainer.adapted.blocks + 1)]
    assert len(before) >= 2
    for layer in trainer.adapted.layers.values():
        for block in layer.active():
            a, b = block.vectors()
            assert torch.equal(a, block.published_a) and torch.equal(b, block.published_b), "of all, and up to date"
    trainer.run()
    after = exported(trainer)
    assert all(same(one, other) for one, other in zip(before, after, strict=True))
    moved = [live(trainer, k) for k in range(1, trainer.adapted.blocks + 1)]
    assert not any(torch.equal(one[n], other[n]) for one, other in zip(published, moved, strict=True) for n in one)


@pytest.mark.parametrize("config", TAILS, ids=str)
def test_the_final_model_is_what_the_tail_has_trained(config):
    trainer = started(3 * COST_PER_RANK, **config)
    trainer.run()
    count = trainer.adapted.blocks
    final = deployed_adapter(trainer.adapted, trainer.method.deployables()[0].lane)
    assert torch.equal(final.head["classifier.weight"], trainer.adapted.heads["classifier"].copies[str(count)].weight)
    for name, layer in trainer.adapted.layers.items():
        if layer.rank:
            a, b = (torch.cat(side) for side in zip(*(block.vectors() for block in layer.active()), strict=True))
            assert torch.equal(final.factors[name][0], a)
            assert torch.equal(final.factors[name][1], b.T * layer.scaling)


def test_the_tail_trains_as_lora_does():
    """One head, one forward through live values, one gradient norm over all components."""
    trainer = started(3 * COST_PER_RANK, initial_rank=3, local_steps=1, joint_fraction=0.2)
    assert trainer.method.joint_start == 12
    trainer.run(stop_at=13)
    (lane,) = trainer.method.lanes(13)
    assert lane == Lane(index=3, frozen=0, live=(1, 2, 3))
    batch = trainer.batches.load(trainer.batches.rows(13))
    trainer.adapted.use(lane)
    loss = F.cross_entropy(trainer.adapted.model(**batch.inputs).logits, batch.labels)
    learning = trainer.adapted.parameters(lane)
    twin = [p.detach().clone().requires_grad_(True) for p in learning]
    for p, gradient in zip(twin, torch.autograd.grad(loss, learning), strict=True):
        p.grad = gradient
    nn.utils.clip_grad_norm_(twin, 1.0)
    adamw = torch.optim.AdamW(twin, lr=trainer.optimizer._inner.param_groups[0]["lr"], weight_decay=0.0)
    for p, original in zip(twin, learning, strict=True):
        adamw.state[p] = {key: value.clone() for key, value in trainer.optimizer._inner.state[original].items()}
    settings = trainer.settings
    adamw.param_groups[0]["lr"] = settings.learning_rate * settings.schedule(13, trainer.total_steps)
    adamw.step()
    trainer.run(stop_at=14)
    assert trainer.record.losses[-1] == pytest.approx(loss.item(), rel=1e-6)
    assert trainer.record.work.lane_passes == 12 * 3 + 2
    for p, stepped in zip(learning, twin, strict=True):
        torch.testing.assert_close(p, stepped, rtol=0, atol=1e-6)


def test_without_a_tail_nothing_changes_before_it():
    plain, tail = (started(3 * COST_PER_RANK, local_steps=2, joint_fraction=f) for f in (0.0, 0.3))
    assert plain.method.joint_start == plain.total_steps
    for trainer in (plain, tail):
        trainer.run(stop_at=tail.method.joint_start - 1)
    assert_same_training(plain, tail)


@pytest.mark.parametrize("fraction", [0.01, 0.4])
def test_a_tail_has_a_step_and_begins_after_growth_with_a_whole_round(fraction):
    method = started(3 * COST_PER_RANK, local_steps=4, joint_fraction=fraction).method
    assert method.schedule.end <= method.joint_start < method.context.total_steps
    assert method.joint_start % 4 == 0


def test_a_tail_that_begins_before_growth_has_ended_is_refused():
    with pytest.raises(ValidationError, match=r"joint_fraction 0\.5 and growth_end 0\.6"):
        AdapadConfig(growth_score="reserve", joint_fraction=0.5)
    AdapadConfig(joint_fraction=0.4)


def test_the_score_is_the_product_of_bias_corrected_averages_of_importance_and_deviation():
    """Against pandas' exponentially weighted mean, whose `adjust` is the bias correction."""
    trainer = started(2 * COST_PER_RANK, local_steps=5)
    totals: dict[str, list[float]] = {}
    inner = trainer.method.scores.update

    def update(adapted):
        for name, layer in adapted.layers.items():
            parts = ((p.detach().double() * p.grad.double()).abs().sum().item() for p in layer.reserve.parameters())
            totals.setdefault(name, []).append(sum(parts))
        inner(adapted)

    trainer.method.scores = SimpleNamespace(update=update, value=trainer.method.scores.value)
    trainer.run(stop_at=4)
    for name in tiny_backbone_modules():
        importance = pd.Series(totals[name])
        mean = importance.ewm(alpha=0.15, adjust=True).mean()
        deviation = (importance - mean).abs().ewm(alpha=0.15, adjust=True).mean()
        assert len(importance) == 4
        assert trainer.method.scores.value(name) == pytest.approx(mean.iloc[-1] * deviation.iloc[-1], rel=1e-4)


def test_components_go_where_the_scores_are():
    """Scores planted on two of the twelve modules: they grow first, up to r_max, and the others share what is left."""
    trainer = started(3 * COST_PER_RANK, local_steps=1, r_max=6, growth_end=1.0)
    planted = {name for name in tiny_backbone_modules() if name.endswith("self.value")}
    trainer.method.scores = SimpleNamespace(
        update=lambda adapted: None,
        value=lambda name: 100.0 if name in planted else 1.0,
        forget=lambda name: None,
    )
    trainer.run()
    assert len(planted) == 2
    assert {trainer.adapted.ranks[name] for name in planted} == {6}
    assert {event.module for event in trainer.record.growth[:10]} == planted
    assert planted.isdisjoint(event.module for event in trainer.record.growth[10:])


def tiny_backbone_modules():
    return [n for n, m in tiny_backbone().model.named_modules() if isinstance(m, nn.Linear) and n.startswith("bert.")]
