"""From a sweep's file to its cells, without Ray and without weights: rows, gaps, ids and the order of waves."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property

import pytest

from adapad_ray.cli.output.tables import estimate_tables
from adapad_ray.cost.estimate import estimate
from adapad_ray.cost.packs import expected_packs
from adapad_ray.errors import BadRequestError
from adapad_ray.methods.lora import Lora
from adapad_ray.results import CellResult, Cost, Point
from adapad_ray.sweep.inputs import sketch_inputs
from adapad_ray.sweep.planning.cell_factory import CellFactory
from adapad_ray.sweep.planning.curve_cells import CurveCells
from adapad_ray.sweep.planning.packing import company, shares_passes
from adapad_ray.sweep.planning.plan import SweepPlan, plan_sweep
from adapad_ray.sweep.planning.tune_cells import TuneCells
from adapad_ray.sweep.spec import Resources
from adapad_ray.sweep.spec_file import parse_spec

ONE_EACH = 896
"""Parameters of one component on each of the tiny model's 12 linear layers."""


class Planner:
    """Plans one sweep of `mode: curve`."""

    def __init__(self, spec, inputs):
        self.spec, self.inputs, self.cells = spec, inputs, CellFactory(spec, inputs)

    def plan(self) -> SweepPlan:
        return plan_sweep(self.cells)

    @cached_property
    def tuning(self) -> TuneCells | None:
        return None if self.spec.tune is None else TuneCells(self.cells, self.plan(), self.spec.tune)

    def waves(self, results):
        """The waves of the tune stage, two of them empty without such a stage, and of the curve."""
        yield from [[], []] if self.tuning is None else self.tuning.waves(results)
        winners = None if self.tuning is None else self.tuning.winners(results)
        yield from CurveCells(self.cells, self.plan()).waves(winners, results)


@pytest.fixture
def planner(tiny_model, reviews):
    def make(**changes):
        content = {
            "name": "s",
            "model": str(tiny_model),
            "task": {"train": str(reviews), "text": "review", "label": "stars"},
            "methods": {"lora": {}},
            "budgets": [ONE_EACH, 2 * ONE_EACH],
            "seeds": [0, 1],
            "training": {"max_length": 32},
        }
        spec = parse_spec({**content, **changes})
        return Planner(spec, sketch_inputs(spec))

    return make


METHODS, BUDGETS = ("lora", "adapad"), [ONE_EACH, 2 * ONE_EACH]
TUNE = {"trials": 3, "budget": ONE_EACH, "space": {"learning_rate": {"log": [1e-3, 1e-1]}}}


def result(planned, score, passes=1, loss=None):
    """A finished cell with this validation metric and loss."""
    validation = {"accuracy": score}
    point = Point(kind="final", parameters=1, head_parameters=1, ranks={}, validation=validation, validation_loss=loss)
    cost = Cost(
        start_seconds=0, train_seconds=0, evaluation_seconds=0, train_flops=0, steps=10, lane_passes=10 * passes,
        tokens=0, peak_parameters=0, peak_memory_bytes=0,
    )  # fmt: skip
    return CellResult(
        id=planned.id,
        identity=planned.cell.identity,
        metric="accuracy",
        points=(point,),
        train_loss=(),
        cost=cost,
        versions={},
    )


def waves(planner, scores=lambda planned: 0.5, passes=lambda planned: 1):
    """All waves; every cell finishes with these scores and passes per step."""
    results, found = {}, []
    for wave in planner.waves(results):
        results.update({p.id: result(p, scores(p), passes(p)) for p in wave})
        found.append(wave)
    return found


def test_every_label_gets_the_same_trials_and_the_curve_takes_the_best_point(planner):
    p = planner(tune=TUNE, methods={"lora": {}, "adapad": {}})
    tune, _, curve, _ = waves(p, scores=lambda planned: planned.point["learning_rate"])
    points = {}
    for planned in tune:
        points.setdefault(planned.cell.identity.label, []).append(planned.point["learning_rate"])
    assert points["lora"] == points["adapad"] == points["head_only"]
    assert len(points["lora"]) == 3
    assert {c.cell.identity.training["learning_rate"] for c in curve} == {max(points["lora"])}
    assert len(curve) == 2 * (1 + 2 + 2)


def test_a_label_with_a_space_of_its_own_is_tuned_there(planner):
    own = {"learning_rate": {"choice": [1e-5, 3e-5]}}
    p = planner(tune=TUNE, methods={"lora": {}, "full": {"space": own}})
    tune, _, curve, _ = waves(p, scores=lambda planned: planned.point["learning_rate"])
    rates = [planned.point["learning_rate"] for planned in tune if planned.cell.identity.label == "full"]
    assert sorted(rates) == [1e-5, 3e-5]
    chosen = {c.cell.identity.training["learning_rate"] for c in curve if c.cell.identity.label == "full"}
    assert chosen == {3e-5}
    assert p.plan().cells == len(tune) + len(curve) == (3 + 3 + 2) + 2 * (1 + 2 + 1)


@pytest.mark.parametrize(
    ("change", "computed"),
    [
        (
            {"seeds": [0, 1, 2]},
            {("curve", "head_only", None, 2), *(("curve", m, b, 2) for m in METHODS for b in BUDGETS)},
        ),
        ({"budgets": [*BUDGETS, 3 * ONE_EACH]}, {("curve", m, 3 * ONE_EACH, s) for m in METHODS for s in (0, 1)}),
        (
            {"methods": {"lora": {}, "adapad": {}, "cp": {}}},
            {("tune", "cp", ONE_EACH, 0), *(("curve", "cp", b, s) for b in BUDGETS for s in (0, 1))},
        ),
        (
            {"methods": {"lora": {}, "adapad": {"score_decay": 0.5}}},
            {("tune", "adapad", ONE_EACH, 0), *(("curve", "adapad", b, s) for b in BUDGETS for s in (0, 1))},
        ),
    ],
    ids=["a seed", "a budget", "a method", "a setting of one method"],
)
def test_a_change_of_the_file_computes_only_what_it_touches(planner, change, computed):
    content = {"tune": TUNE, "methods": {method: {} for method in METHODS}}
    before = {p.id for wave in waves(planner(**content)) for p in wave}
    after = {p.id: p.cell.identity for wave in waves(planner(**content | change)) for p in wave}
    new = [identity for cell, identity in after.items() if cell not in before]
    assert {(i.stage, i.label, i.budget, i.seed) for i in new} == computed
    assert len(new) == sum(TUNE["trials"] if stage == "tune" else 1 for stage, *_ in computed)


def test_each_budget_can_be_tuned_for_itself(planner):
    p = planner(tune={**TUNE, "budget": "each"}, methods={"lora": {}})

    def small_rates_suit_the_small_budget(planned):
        rate = planned.point["learning_rate"]
        return 0.5 - rate if planned.cell.identity.budget == ONE_EACH else rate

    tune, _, curve, _ = waves(p, scores=small_rates_suit_the_small_budget)
    studies = {}
    for planned in tune:
        studies.setdefault(p.tuning.study(planned), set()).add(planned.point["learning_rate"])
    (rates,) = {frozenset(tried) for tried in studies.values()}
    assert set(studies) == {"head_only", f"lora@{ONE_EACH}", f"lora@{2 * ONE_EACH}"}
    assert len(rates) == 3
    chosen = {(c.cell.identity.budget, c.cell.identity.training["learning_rate"]) for c in curve}
    assert chosen == {(None, max(rates)), (ONE_EACH, min(rates)), (2 * ONE_EACH, max(rates))}
    assert p.plan().cells == len(tune) + len(curve) == 3 * 3 + 3 * 2


def test_the_ends_of_a_curve_are_tuned_and_the_budgets_between_are_interpolated(planner):
    budgets = [ONE_EACH, 2 * ONE_EACH, 4 * ONE_EACH]
    p = planner(tune={**TUNE, "budget": "ends"}, budgets=budgets)

    def small_rates_suit_the_small_budget(planned):
        rate = planned.point["learning_rate"]
        return 0.5 - rate if planned.cell.identity.budget == ONE_EACH else rate

    tune, _, curve, _ = waves(p, scores=small_rates_suit_the_small_budget)
    tried = {planned.point["learning_rate"] for planned in tune}
    low, high = min(tried), max(tried)
    assert {planned.cell.identity.budget for planned in tune} == {None, ONE_EACH, 4 * ONE_EACH}
    rates = {c.cell.identity.budget: c.cell.identity.training["learning_rate"] for c in curve}
    assert rates[ONE_EACH] == low and rates[4 * ONE_EACH] == high
    assert rates[2 * ONE_EACH] == pytest.approx((low * high) ** 0.5, rel=1e-3)
    assert p.plan().cells == len(tune) + len(curve) == 3 * (1 + 2) + 2 * (1 + 3)
    described = estimate(p.spec, p.inputs, p.plan())
    assert described.cells == {"tune": len(tune), "curve": len(curve)}


def test_a_method_with_one_budget_is_tuned_there(planner):
    p = planner(tune={**TUNE, "budget": "ends"}, methods={"lora": {"budgets": [ONE_EACH]}, "adapad": {}})
    tune, *_ = waves(p)
    assert {x.cell.identity.budget for x in tune if x.cell.identity.label == "lora"} == {ONE_EACH}


def test_the_loss_chooses_where_the_metric_ties(planner):
    p = planner(tune=TUNE)
    tune = next(iter(p.tuning.waves({})))
    lora = sorted((x for x in tune if x.cell.identity.label == "lora"), key=lambda x: x.point["learning_rate"])
    results = {x.id: result(x, 0.5, loss=loss) for x, loss in zip(lora, (0.7, 0.6, 0.65), strict=True)}
    assert p.tuning.winners(results)["lora", None] == lora[1].point


def test_a_tie_goes_to_the_smaller_rate(planner):
    p = planner(tune=TUNE)
    tune = next(iter(p.tuning.waves({})))
    lora = [x for x in tune if x.cell.identity.label == "lora"]
    results = {x.id: result(x, 0.5, loss=0.6) for x in lora}
    assert p.tuning.winners(results)["lora", None]["learning_rate"] == min(x.point["learning_rate"] for x in lora)
    named = [edge for edge in p.tuning.edges(results) if edge.startswith("lora: ")]
    assert len(named) == 1 and "is the smallest of those tried" in named[0]


def test_a_cell_is_identified_by_what_determines_it_and_not_by_names(planner):
    ids = {c.id for c in waves(planner())[2]}
    assert {c.id for c in waves(planner(methods={"lora/renamed": {}}))[2]} == ids
    assert {c.id for c in waves(planner(storage="elsewhere", tracking="sqlite:///x.db"))[2]} == ids
    assert not {c.id for c in waves(planner(training={"max_length": 32, "weight_decay": 0.1}))[2]} & ids


def test_more_seeds_and_budgets_add_cells_and_change_none(planner):
    ids = {c.id for c in waves(planner())[2]}
    assert {c.id for c in waves(planner(seeds=[0, 1, 2], budgets=[ONE_EACH, 2 * ONE_EACH, 4 * ONE_EACH]))[2]} > ids


def test_a_compute_matched_label_follows_its_leader_and_trains_more_epochs(planner):
    p = planner(methods={"adapad": {"initial_rank": 0}, "lora/matched": {"compute_as": "adapad"}})
    *_, leaders, followers = waves(p, passes=lambda planned: 3 if planned.cell.identity.method == "adapad" else 1)
    assert {c.cell.identity.label for c in leaders} == {"head_only", "adapad"}
    assert {c.cell.identity.training["epochs"] for c in followers} == {9.0}
    assert len(followers) == 4


def test_a_compute_matched_label_has_a_gap_where_its_leader_has_nothing_to_match(planner):
    """Below one component per module the leader does not exist; at exactly one it trains a single lane."""
    methods = {
        "adapad": {"initial_rank": 1},
        "lora/matched": {"compute_as": "adapad", "allocation": "random"},
        "lora/random": {"allocation": "random"},
    }
    p = planner(budgets=[ONE_EACH // 2, ONE_EACH, 2 * ONE_EACH], methods=methods)
    gaps = [(gap.label, gap.budget) for gap in p.plan().gaps]
    assert gaps == [("adapad", ONE_EACH // 2), ("lora/matched", ONE_EACH // 2), ("lora/matched", ONE_EACH)]


def test_budgets_of_a_label_restrict_it(planner):
    p = planner(methods={"lora": {}, "lora/small": {"budgets": [ONE_EACH], "lora_alpha": 4}})
    assert [(row.label, row.budget) for row in p.plan().rows if row.label == "lora/small"] == [("lora/small", ONE_EACH)]


def test_a_failed_leader_leaves_its_followers_out(planner):
    p = planner(methods={"adapad": {"initial_rank": 0}, "lora/matched": {"compute_as": "adapad"}})
    *_, followers = list(p.waves({}))
    assert followers == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": {"lora": {}, "lora/copy": {}}}, "lora and methods.lora/copy describe the same cells"),
        (
            {"methods": {"dora": {}, "lora/m": {"compute_as": "dora"}}},
            "methods.lora/m.compute_as is dora",
        ),
        ({"budgets": [5]}, "no method of this sweep can reach budget 5"),
        (
            {"methods": {"lora": {}, "dylora": {}, "adapad": {"initial_rank": 1}}, "budgets": [ONE_EACH - 1]},
            r"\(lora: .* or set allocation: random; dylora: .*; adapad: .* or set initial_rank: 0\)",
        ),
        ({"tune": {**TUNE, "budget": 5}}, "tune.budget does not suit lora"),
    ],
)
def test_a_plan_that_makes_no_sense_is_rejected(planner, changes, words):
    with pytest.raises(BadRequestError, match=words):
        planner(**changes).plan()


def test_full_fine_tuning_is_one_row_without_budget_whose_parameters_are_the_backbones(planner):
    p = planner(methods={"lora": {}, "full": {"training": {"epochs": 1}}}, tune=TUNE)
    rows = {(row.label, row.budget): row for row in p.plan().rows}
    full = rows["full", None]
    assert full.plan.parameters == full.plan.peak_parameters == p.inputs.backbone_parameters > 10_000
    assert [budget for label, budget in rows if label == "full"] == [None]
    described = {row.label: row for row in estimate(p.spec, p.inputs, p.plan()).rows}
    lora, full = described["lora"], described["full"]
    assert full.remainder is None and full.optimizer_bytes == 16 * p.inputs.backbone_parameters
    assert full.train_flops == pytest.approx(3 * described["head_only"].train_flops / 3, rel=1e-6), (
        "a third of the steps"
    )
    assert lora.train_flops > 2 * described["head_only"].train_flops


PARA = {"methods": {"para": {"parent_rank": 4}, "para/uniform": {"parent_rank": 4, "cut": "uniform"}, "lora": {}}}


def cells_of(waves, stage):
    return [p.cell for wave in waves for p in wave if p.cell.identity.stage == stage]


def test_one_parent_serves_every_budget_and_every_cut_of_a_seed(planner):
    found = waves(planner(**PARA))
    parents = cells_of(found, "parent")
    assert {(p.identity.method, p.identity.seed, p.identity.budget) for p in parents} == {
        ("lora", 0, 4 * ONE_EACH),
        ("lora", 1, 4 * ONE_EACH),
    }
    assert len(parents) == 2
    cut = [c for c in cells_of(found, "curve") if c.identity.method == "para"]
    assert len(cut) == 2 * 2 * 2
    for cell in cut:
        assert cell.identity.parent in {p.id for p in parents if p.identity.seed == cell.identity.seed}
    assert len({c.id for c in cut}) == len(cut)


def test_parents_come_before_their_children_and_delay_no_other_cell(planner):
    _, _, first, second, _ = waves(planner(**PARA))
    assert {p.cell.identity.method for p in first} == {"lora", "head_only"}
    assert {p.cell.identity.method for p in second} == {"para"}


def test_more_budgets_need_no_more_parents_and_other_settings_need_others(planner):
    def parents(**changes):
        return {c.id for c in cells_of(waves(planner(**{**PARA, **changes})), "parent")}

    few = parents()
    assert parents(budgets=[ONE_EACH, 2 * ONE_EACH, 3 * ONE_EACH]) == few
    assert parents(seeds=[0, 1, 2]) > few
    assert not parents(methods={"para": {"parent_rank": 5}}) & few
    assert not parents(training={"max_length": 32, "learning_rate": 1e-4}) & few


def test_the_id_of_a_cell_is_the_hash_of_its_identity_without_names(planner):
    cell = waves(planner())[2][0].cell
    # Nor does it hold what was added since, at its default.
    since = ("packed", "quantization", "attn_implementation")
    content = cell.identity.model_dump(mode="json", exclude={"model", "task", "label", *since})
    del content["training"]["micro_batch_size"], content["training"]["pack_sequences"]
    expected = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    assert cell.id == expected


def test_another_attention_has_cells_of_its_own(planner):
    default, eager = (cells_of(waves(planner(attn_implementation=kind)), "curve") for kind in (None, "eager"))
    assert not {cell.id for cell in default} & {cell.id for cell in eager}
    assert {cell.identity.attn_implementation for cell in eager} == {"eager"}


def test_a_quantised_backbone_has_cells_of_its_own_and_full_fine_tuning_is_a_gap(planner):
    """A plan needs none of the packages that quantise."""
    methods = {"lora": {}, "full": {}}
    dense, quantized = (planner(methods=methods, tune=TUNE, quantization=kind) for kind in (None, "nf4"))
    lora = [cells_of(waves(p), "tune") for p in (dense, quantized)]
    assert not {cell.id for cell in lora[0]} & {cell.id for cell in lora[1]}
    assert {cell.identity.quantization for cell in lora[1]} == {"nf4"}
    plan = quantized.plan()
    (gap,) = plan.gaps
    assert (gap.label, gap.budget) == ("full", quantized.inputs.backbone_parameters)
    assert "full trains the backbone's weights, which cannot learn in nf4" in gap.reason
    assert "full" not in {planned.cell.identity.label for wave in waves(quantized) for planned in wave}
    assert sum(estimate(quantized.spec, quantized.inputs, plan).cells.values()) == plan.cells
    assert quantized.inputs.precision == "full"
    with pytest.raises(BadRequestError, match="precision: mixed is for dense layers, but quantization is nf4"):
        planner(quantization="nf4", precision="mixed")


def test_cells_that_share_passes_get_ids_of_their_own(planner):
    methods = {"lora": {}, "adapad": {}, "dora": {}}
    alone, packed, on_gpu, half, pairs = (
        {planned.cell.identity.label: planned.cell for planned in waves(planner(**{"methods": methods, **changes}))[2]}
        for changes in (
            {},
            {"resources": {"slots_per_pass": 4}},
            {"resources": {"slots_per_pass": "auto"}},
            {"resources": {"slots_per_pass": 4}, "dtype": "float16"},
            {"resources": {"slots_per_pass": 4, "workers": 2}, "methods": {"lora": {}, "adapad": {}}},
        )
    )
    for label in ("lora", "adapad"):
        assert packed[label].identity.packed and packed[label].id != alone[label].id
        assert on_gpu[label].id == alone[label].id, "auto is 1 without a GPU"
        assert not half[label].identity.packed
    assert packed["dora"].id == alone["dora"].id, "its cells have nothing that stacks"
    assert pairs["adapad"].identity.packed and not pairs["lora"].identity.packed, "only lanes share passes there"


@pytest.mark.parametrize(
    ("resources", "deterministic", "packs"),
    [
        ({"gpus_per_worker": 1}, False, True),
        ({"gpus_per_worker": 1}, True, False),  # what shares a pass depends on when cells end
        ({"gpus_per_worker": 1, "slots_per_pass": 4}, True, True),
        ({"gpus_per_worker": 1, "slots_per_pass": 1}, False, False),
        ({}, False, False),
    ],
)
def test_cells_share_passes_on_a_gpu_unless_they_must_repeat_exactly(resources, deterministic, packs, planner):
    spec = planner(training={"max_length": 32, "deterministic": deterministic}).spec
    spec = spec.model_copy(update={"resources": Resources(**resources)})
    assert shares_passes(spec, Lora, spec.training) is packs


def test_cells_train_beside_those_that_agree_in_what_a_pass_has_in_common(planner):
    methods = {"lora": {}, "lora/large": {"training": {"batch_size": 2}}, "adapad": {}, "dora": {}}
    p = planner(methods=methods, resources={"slots_per_pass": 8})
    found = {cell.cell.identity.label: company(p.cells.spec, cell.cell.identity) for cell in waves(p)[2]}
    assert found["lora"] == found["adapad"] and found["lora"]["most"] == 8
    assert found["lora/large"]["key"] != found["lora"]["key"] and found["dora"] is None


def test_a_cell_is_made_once_and_hashed_once(planner, monkeypatch):
    """Winners are computed many times during a launch."""
    p, made = planner(tune=TUNE, methods={"lora": {}, "adapad": {}}), []
    make, tuning = CellFactory._make, p.tuning
    monkeypatch.setattr(CellFactory, "_make", lambda self, *args: made.append(args) or make(self, *args))
    results = {planned.id: result(planned, 0.5) for wave in tuning.waves({}) for planned in wave}
    assert len(made) == len(results) == 9
    for _ in range(3):
        tuning.winners(results)
    assert len(made) == 9
    cell = p.cells.cell(*made[0][:-1])
    assert cell.id is p.cells.cell(*made[0][:-1]).id


def test_a_parent_of_the_tune_stage_is_shared_by_the_cuts_and_serves_the_curve_again(planner):
    """The list of points is the same for all labels, and seed 0 of the curve is the seed of the tune stage."""
    found = waves(planner(tune=TUNE, **PARA), scores=lambda planned: planned.point.get("learning_rate", 0))
    tuned = [p.cell for p in found[0] if p.cell.identity.stage == "parent"]
    assert len(tuned) == 3 and len(found[0]) == 3
    assert len([c for c in cells_of(found, "tune") if c.identity.method == "para"]) == 6
    on_curve = cells_of(found[2:], "parent")
    assert {c.identity.seed: c.id in {p.id for p in tuned} for c in on_curve} == {0: True, 1: False}


def test_the_children_of_a_failed_parent_are_left_out(planner):
    p = planner(**PARA)
    results = {}
    methods = []
    for wave in p.waves(results):
        done = [planned for planned in wave if planned.cell.identity.stage != "parent"]
        results.update({planned.id: result(planned, 0.5) for planned in done})
        methods += [planned.cell.identity.method for planned in done]
    assert set(methods) == {"lora", "head_only"}


def test_the_plan_counts_shared_trainings(planner):
    def estimated(**changes):
        p = planner(**{**PARA, **changes})
        return estimate(p.spec, p.inputs, p.plan())

    plan = estimated()
    assert plan.parents == {"trained": 2, "cells": 8}
    assert any("2 trainings of parents instead of 8 adapters" in str(part) for part in estimate_tables(plan))
    para = [row for row in plan.rows if row.label.startswith("para")]
    assert len({row.train_flops for row in para}) == 1
    others = sum(row.train_flops for row in plan.rows if row not in para)
    evaluation = sum(row.evaluation_flops for row in plan.rows)
    assert plan.flops == pytest.approx(2 * (para[0].train_flops + others + evaluation))
    assert estimated(tune=TUNE).parents == {"trained": 3 + 4, "cells": 8 + 6}
    assert "trainings of parents" not in "".join(map(str, estimate_tables(estimated(methods={"lora": {}}))))


OWN = {"learning_rate": {"choice": [1e-5, 3e-5]}}


def test_post_hoc_labels_with_other_spaces_train_parents_of_their_own(planner):
    """Two points on the one, three on the other: in the tune stage five trainings of parents, in any order."""
    own = {**PARA["methods"], "para/uniform": {**PARA["methods"]["para/uniform"], "space": OWN}}

    def estimated(methods):
        p = planner(methods=methods, tune=TUNE)
        return estimate(p.spec, p.inputs, p.plan())

    plan, turned, shared = map(estimated, (own, dict(reversed(own.items())), PARA["methods"]))
    assert plan.parents == turned.parents == {"trained": 3 + 2 + 4, "cells": 8 + 3 + 2}
    assert plan.flops == pytest.approx(turned.flops)
    (parent,) = {row.train_flops for row in plan.rows if row.label.startswith("para")}
    assert plan.flops - shared.flops == pytest.approx(2 * parent)


def test_packs_hold_the_trials_of_a_label_s_own_space(planner):
    p = planner(methods={"lora": {"space": OWN}}, tune={**TUNE, "budget": "ends"}, seeds=[0], reference=False)
    spec = p.spec.model_copy(update={"resources": Resources(gpus_per_worker=1, slots_per_pass=4)})
    packs = expected_packs(spec, p.plan())
    assert (packs.cells, packs.packs) == (2 * 2 + 2, 2)


@pytest.mark.parametrize(
    ("label", "chosen", "reason"),
    [("full", None, "full has no budget"), ("adapad", ["lora"], "it is not among search.methods")],
)
def test_a_space_of_a_label_that_is_not_searched_is_rejected(label, chosen, reason, planner):
    search = {"space": {"budget": {"log": [ONE_EACH, 2 * ONE_EACH]}}, "methods": chosen}
    message = f"methods.{label}.space is given, but {label} is not searched: {reason}"
    with pytest.raises(BadRequestError, match=message):
        planner(methods={"lora": {}, label: {"space": OWN}}, mode="search", search=search).plan()


def test_labels_that_differ_in_their_space_alone_are_the_same(planner):
    with pytest.raises(BadRequestError, match="lora/wide describe the same cells, whatever their spaces: remove one"):
        planner(methods={"lora": {}, "lora/wide": {"space": OWN}}, tune=TUNE).plan()
