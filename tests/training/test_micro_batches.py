"""Micro-batches: the gradients of a batch's parts add up to those of the batch, so nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from adapad_ray.testing import COST_PER_RANK, MethodCase
from adapad_ray.training.batches import Batches
from adapad_ray.training.settings import TrainingSettings

GROWING = {"initial_rank": 1, "local_steps": 2, "growth_start": 0.3}
CASES = [
    MethodCase("lora", 2 * COST_PER_RANK),
    MethodCase("adapad", 3 * COST_PER_RANK, GROWING),
    MethodCase("adapad", 3 * COST_PER_RANK, {**GROWING, "growth_score": "reserve", "growth_interval": 4}),
    MethodCase("adapad", 3 * COST_PER_RANK, {"initial_rank": 3, "r_max": 3, "local_steps": 3}, slots_per_pass=4),
    MethodCase("increlora", 2 * COST_PER_RANK, {"growth_interval": 4}),
    MethodCase("adalora", 2 * COST_PER_RANK),
    MethodCase("ard", 2 * COST_PER_RANK),
    MethodCase("gora", 2 * COST_PER_RANK),
    MethodCase("dora", 3 * COST_PER_RANK),
    MethodCase("cp", 1000),
    MethodCase("full", None),
]


def trained(case, micro_batch_size):
    case = replace(case, training={"epochs": 1.5, "micro_batch_size": micro_batch_size})
    backbone = case.backbone()
    backbone.model.to(torch.float64)
    trainer = case.trainer(backbone=backbone)
    trainer.start()
    trainer.run()
    return trainer


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_training_is_that_of_whole_batches(case):
    """In fp64; batches of 8, the last one of every epoch smaller."""
    whole = trained(case, None)
    expected = whole.adapted.state()
    for size in (1, 3) if case.method == "lora" else (3,):
        parts = trained(case, size)
        np.testing.assert_allclose(parts.record.losses, whole.record.losses, rtol=0, atol=1e-9)
        assert [(e.step, e.module, e.rank) for e in parts.record.growth] == [
            (e.step, e.module, e.rank) for e in whole.record.growth
        ]
        assert vars(parts.record.work) == vars(whole.record.work)
        for name, value in parts.adapted.state().items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9, msg=name)


def test_a_micro_batch_as_large_as_the_batch_changes_no_bit():
    case = CASES[0]
    plain, same = (replace(case, training=t).trainer() for t in ({}, {"micro_batch_size": 8}))
    for trainer in (plain, same):
        trainer.start()
        trainer.run(stop_at=4)
    assert plain.record.losses == same.record.losses


def test_parts_hold_the_examples_in_order():
    data = MethodCase("lora").workspace().data.splits["train"]
    batch = Batches(data, TrainingSettings(batch_size=7), seed=0, pad_token_id=0).widest()
    parts = batch.parts(3)
    assert [len(part.labels) for part in parts] == [3, 3, 1] and batch.parts(None) == batch.parts(7) == [batch]
    for name, value in batch.inputs.items():
        assert torch.equal(torch.cat([part.inputs[name] for part in parts]), value)
