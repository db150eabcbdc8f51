"""Whole cells as slots of one pack: 50 steps give each what it computes alone."""

from functools import partial

import numpy as np
import torch

from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_backbone
from adapad_ray.testing.packed_cells import PackedCells
from adapad_ray.training.passes.lane_passes import DivergedError

STEPS = 50


def case(method="lora", rank=1, steps=STEPS, budget=None, config=None, **training):
    # Batches of one width, so that adapters draw as much dropout alone.
    training = {"learning_rate": 1e-2, "epochs": steps / 6, "pad_to_multiple_of": 10, **training}
    return MethodCase(method, budget or rank * COST_PER_RANK, config or {}, training=training)


CASES = [
    case(rank=1, learning_rate=1e-3),
    case(rank=2, learning_rate=3e-2, weight_decay=0.1),
    case(rank=4, steps=20, warmup_fraction=0.3),
    case(budget=500, config={"allocation": "random", "dropout": 0.2}, max_grad_norm=0.05),
    case("melora", rank=1, config={"dropout": 0.3}, lr_scheduler_type="constant"),
    case("melora", rank=3, steps=33),
    case("cp", budget=700),
    case("cp", budget=1500, steps=41, learning_rate=3e-2),
]
"""Eight slots with different methods, rates, ranks, seeds and ends."""


def backbone(dtype):
    made = tiny_backbone()
    made.model.to(dtype)
    return made


def packed_cells(cases, dtype, slots=None):
    return PackedCells([partial(case.trainer, seed) for seed, case in enumerate(cases)], backbone(dtype), slots)


def alone(cases, dtype):
    trainers = [case.trainer(seed, backbone=backbone(dtype)) for seed, case in enumerate(cases)]
    for trainer in trainers:
        trainer.start()
        trainer.run()
    return [(trainer.record.losses, trainer.adapted.state()) for trainer in trainers]


def assert_equal(packed, lone, tolerance):
    for index, ((losses, state), (expected, expected_state)) in enumerate(zip(packed, lone, strict=True)):
        np.testing.assert_allclose(losses, expected, rtol=0, atol=tolerance)
        assert state.keys() == expected_state.keys()
        for name, value in state.items():
            torch.testing.assert_close(value, expected_state[name], rtol=0, atol=tolerance, msg=f"slot {index} {name}")


def test_in_fp64_every_slot_equals_its_lone_run_to_1e_9():
    lone = alone(CASES, torch.float64)
    for slots in (len(CASES), 3):
        cells = packed_cells(CASES, torch.float64, slots)
        assert not cells.run()
        assert_equal(cells.results(), lone, 1e-9)


def test_methods_with_lanes_and_growth_share_passes_with_others():
    """They have rounds, lanes that train alone, and structures that change, each at its own steps."""
    cases = [
        case("adapad", rank=3, config={"initial_rank": 1, "local_steps": 2, "growth_start": 0.2}),
        case("adapad", rank=4, steps=30, config={"initial_rank": 4, "r_max": 4, "local_steps": 3, "dropout": 0.1}),
        case("sequential", rank=2, steps=40),
        case(
            "increlora", rank=2, steps=48, config={"growth_interval": 4}
        ),  # a first growth at step 2 is decided by rounding
        case("increlora", rank=3, steps=36, config={"growth_interval": 6}),
        case("lora", rank=2, pad_to_multiple_of=1),
    ]
    lone = alone(cases, torch.float64)
    cells = packed_cells(cases, torch.float64, 6)
    assert not cells.run()
    assert_equal(cells.results(), lone, 1e-9)


def test_in_fp32_to_1e_5_and_a_slot_that_diverges_leaves_the_others_untouched():
    cases = CASES[:3]
    lone = alone(cases, torch.float32)
    cells = packed_cells([*cases, case(rank=2)], torch.float32)
    ill = cells.trainers[3]
    steps = ill.batches.rows

    def rows(step):
        if step == 15:  # before one slot ends
            with torch.no_grad():
                next(iter(ill.adapted.layers.values())).active()[0].a[0, 0] = float("nan")
        return steps(step)

    ill.batches.rows = rows
    failures = cells.run()
    assert list(failures) == [3] and isinstance(failures[3], DivergedError) and "step 15" in str(failures[3])
    assert_equal(cells.results()[:3], lone, 1e-5)
