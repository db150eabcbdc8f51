"""Gradient descent, warm-ups and phases; AdamW is compared with torch's and PEFT's in test_trainer."""

import numpy as np
import pytest
import torch
from torch import nn

from adapad_ray.training.optimizer import ComponentOptimizer
from adapad_ray.training.settings import TrainingSettings

GRADIENT = torch.tensor([1.0, -2.0])


def descend(optimizer, p, steps):
    for step in steps:
        optimizer.begin_step(step)
        p.grad = GRADIENT.clone()
        optimizer.step([p])
        optimizer.clear_gradients()


def test_sgd_is_plain_gradient_descent_without_a_state():
    settings = TrainingSettings(
        optimizer="sgd", learning_rate=0.25, lr_scheduler_type="constant", warmup_fraction=0, weight_decay=0
    )
    p = nn.Parameter(torch.zeros(2))
    optimizer = ComponentOptimizer(settings, total_steps=4)
    optimizer.adopt([p], 0)
    descend(optimizer, p, range(3))
    assert torch.equal(p.detach(), -3 * 0.25 * GRADIENT)
    assert optimizer.tensors({"p": p}) == {}


def test_gradient_descent_continues_from_a_checkpoint():
    settings = TrainingSettings(optimizer="sgd", learning_rate=0.25)
    whole, part = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    first = ComponentOptimizer(settings, total_steps=6)
    first.adopt([whole], 0)
    descend(first, whole, range(6))
    before = ComponentOptimizer(settings, total_steps=6)
    before.adopt([part], 0)
    descend(before, part, range(4))
    after = ComponentOptimizer(settings, total_steps=6)
    after.load({"p": part}, before.tensors({"p": part}), before.births({"p": part}))
    descend(after, part, range(4, 6))
    assert torch.equal(part, whole)


def test_a_late_component_warms_up_on_top_of_the_schedule():
    settings = TrainingSettings(learning_rate=1.0, warmup_fraction=0, component_warmup_steps=4, max_grad_norm=1.0)
    optimizer = ComponentOptimizer(settings, total_steps=100)
    early, late = (nn.Parameter(torch.zeros(1)) for _ in "ab")
    optimizer.adopt([early], 0)
    optimizer.adopt([late], 10)
    rates = []
    for step in range(10, 16):
        optimizer.begin_step(step)
        assert optimizer._inner is not None
        rates.append([group["lr"] for group in optimizer._inner.param_groups])
    schedule = [settings.schedule(step, 100) for step in range(10, 16)]
    assert [rate for rate, _ in rates] == schedule
    np.testing.assert_allclose([rate for _, rate in rates], np.multiply(schedule, [0.25, 0.5, 0.75, 1, 1, 1]))


def test_the_schedule_runs_once_in_every_phase():
    settings = TrainingSettings(learning_rate=1.0, warmup_fraction=0, component_warmup_steps=5)
    optimizer = ComponentOptimizer(settings, total_steps=20)
    early, late = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimizer.adopt([early], 0)
    optimizer.adopt([late], 12)

    def rates(step, phase):
        optimizer.begin_step(step, phase)
        return [group["lr"] for group in optimizer._inner.param_groups]

    assert rates(0, (0, 12))[0] == 1.0
    assert rates(11, (0, 12))[0] == pytest.approx(1 / 12)
    assert rates(12, (12, 8)) == [1.0, 1.0], "what is born with a phase needs no warm-up of its own"
    assert rates(14, (0, 20)) == [pytest.approx(0.3), pytest.approx(0.3 * 3 / 5)]
