"""Whole cells as slots of one pack: 50 steps give each what it computes alone."""

import numpy as np
import torch

from adapad_ray.adapters.packs import Pack, Slot
from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_backbone
from adapad_ray.training.batches import joined
from adapad_ray.training.packs import PackOptimizer

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


def alone(cases, dtype):
    trainers = [case.trainer(seed, backbone=backbone(dtype)) for seed, case in enumerate(cases)]
    for trainer in trainers:
        trainer.start()
        trainer.run()
    return [(trainer.record.losses, trainer.adapted.state()) for trainer in trainers]


class PackedCells:
    """Cells on one backbone whose steps are taken together; those that have ended leave the pack."""

    def __init__(self, cases, dtype):
        self.backbone = backbone(dtype)
        self.trainers = []
        for seed, of_slot in enumerate(cases):
            trainer = of_slot.trainer(seed, backbone=self.backbone)
            trainer.start()
            trainer.adapted.detach()
            self.trainers.append(trainer)
        self.losses = [[] for _ in cases]
        self.running = []

    def step(self, step):
        running = [t for t in self.trainers if step < t.total_steps]
        if running != self.running:
            self.running = running
            slots = [Slot(t.adapted, *t.method.lanes(step)) for t in running]
            self.pack = Pack(slots)
            self.optimizer = PackOptimizer(self.pack, [t.optimizer for t in running])
        batches = [t.batches.load(t.batches.rows(step)) for t in running]
        batch = joined(batches, pad_token_id=0)
        for t in running:
            t.optimizer.begin_step(step, t.method.phase(step))
            t.step = step
        generators = [t._dropout(slot.lane) for t, slot in zip(running, self.pack.slots, strict=True)]
        with self.pack.passing(len(batch.labels), generators):
            output = self.backbone.model(**batch.inputs)
            losses = self.pack.losses(running[0]._loss(output, batch.labels), len(batches[0].labels))
            losses.sum().backward()
        self.optimizer.step(losses.detach())
        for t, loss in zip(running, losses.tolist(), strict=True):
            self.losses[self.trainers.index(t)].append(loss)

    def run(self):
        for step in range(STEPS):
            self.step(step)
        for t in self.trainers:
            t.method.finish()
        return [(losses, t.adapted.state()) for losses, t in zip(self.losses, self.trainers, strict=True)]


def assert_equal(packed, lone, tolerance):
    for index, ((losses, state), (expected, expected_state)) in enumerate(zip(packed, lone, strict=True)):
        np.testing.assert_allclose(losses, expected, rtol=0, atol=tolerance)
        assert state.keys() == expected_state.keys()
        for name, value in state.items():
            torch.testing.assert_close(value, expected_state[name], rtol=0, atol=tolerance, msg=f"slot {index} {name}")


def test_in_fp64_every_slot_equals_its_lone_run_to_1e_9():
    lone = alone(CASES, torch.float64)
    packed = PackedCells(CASES, torch.float64).run()
    assert_equal(packed, lone, 1e-9)


def test_in_fp32_to_1e_5_and_a_slot_that_diverges_leaves_the_others_untouched():
    cases = CASES[:3]
    lone = alone(cases, torch.float32)
    cells = PackedCells([*cases, case(rank=2, learning_rate=1e-2)], torch.float32)
    for step in range(STEPS):
        if step == 15:  # before one slot ends
            with torch.no_grad():
                next(iter(cells.trainers[3].adapted.layers.values())).active()[0].a[0, 0] = float("nan")
            kept = {name: value.clone() for name, value in cells.trainers[3].adapted.state().items()}
        cells.step(step)
        if step == 19:
            assert cells.optimizer.finite.tolist() == [True, True, True, False]
            now = cells.trainers[3].adapted.state()
            assert all(torch.equal(now[name].nan_to_num(), kept[name].nan_to_num()) for name in kept), "it is left alone"
    for t in cells.trainers:
        t.method.finish()
    packed = [(losses, t.adapted.state()) for losses, t in zip(cells.losses, cells.trainers, strict=True)]
    assert_equal(packed[:3], lone, 1e-5)
