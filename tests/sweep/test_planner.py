"""From file to cells without Ray and without weights: what is planned, what cannot be, and what is known when."""

from __future__ import annotations

import pytest

from adapad_ray.errors import BadRequestError
from adapad_ray.results import CellResult, Cost, Point
from adapad_ray.sweep.grounds import sketch_grounds
from adapad_ray.sweep.planner import Planner
from adapad_ray.sweep.spec import parse_spec

ONE_EACH = 896
"""Parameters of one component on each of the tiny model's 12 linear layers."""


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
        return Planner(spec, sketch_grounds(spec))

    return make


TUNE = {"trials": 3, "budget": ONE_EACH, "space": {"learning_rate": {"log": [1e-3, 1e-1]}}}


def result(planned, score, passes=1):
    """A finished cell that scored so on validation."""
    point = Point(kind="final", parameters=1, head_parameters=1, ranks={}, validation={"accuracy": score})
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
    """All waves, every cell finishing with the score and the passes that are given."""
    results, found = {}, []
    for wave in planner.waves(planner.plan(), results):
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


def test_a_cell_is_identified_by_what_determines_it_and_not_by_names(planner):
    ids = {c.id for c in waves(planner())[2]}
    assert {c.id for c in waves(planner(methods={"lora/renamed": {}}))[2]} == ids
    assert {c.id for c in waves(planner(storage="elsewhere", tracking="sqlite:///x.db"))[2]} == ids
    assert not {c.id for c in waves(planner(training={"max_length": 32, "weight_decay": 0.1}))[2]} & ids


def test_more_seeds_and_budgets_add_cells_and_change_none(planner):
    ids = {c.id for c in waves(planner())[2]}
    assert {c.id for c in waves(planner(seeds=[0, 1, 2], budgets=[ONE_EACH, 2 * ONE_EACH, 4 * ONE_EACH]))[2]} > ids


def test_a_compute_matched_label_waits_for_its_leader_and_is_stretched_by_its_passes(planner):
    p = planner(methods={"adapad": {"initial_rank": 0}, "lora/matched": {"compute_as": "adapad"}})
    *_, leaders, followers = waves(p, passes=lambda planned: 3 if planned.cell.identity.method == "adapad" else 1)
    assert {c.cell.identity.label for c in leaders} == {"head_only", "adapad"}
    assert {c.cell.identity.training["epochs"] for c in followers} == {9.0}
    assert len(followers) == 4


def test_a_compute_matched_label_has_a_gap_where_its_leader_has_nothing_to_match(planner):
    """Below one component per module the leader does not exist; at exactly one it trains a single lane."""
    methods = {
        "adapad": {},
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
    *_, followers = list(p.waves(p.plan(), {}))
    assert followers == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": {"lora": {}, "lora/copy": {}}}, "lora and methods.lora/copy describe the same cells"),
        (
            {"methods": {"adapad": {"mode": "interleaved"}, "lora/m": {"compute_as": "adapad"}}},
            "methods.lora/m.compute_as is adapad",
        ),
        ({"budgets": [5]}, "no method of this sweep can reach budget 5"),
        ({"tune": {**TUNE, "budget": 5}}, "tune.budget does not suit lora"),
    ],
)
def test_what_makes_no_sense_is_refused(planner, changes, words):
    with pytest.raises(BadRequestError, match=words):
        planner(**changes).plan()
