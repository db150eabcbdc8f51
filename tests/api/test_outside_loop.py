"""Training inside a loop that is not ours: gradients of all lanes at once, bitwise the numbers of `Trainer.run`."""

from __future__ import annotations

import pytest
import torch

from adapad_ray.api.outside_loop import OutsideLoop
from adapad_ray.methods import Adapad, CellContext
from adapad_ray.models.target_modules import target_modules
from adapad_ray.testing import COST_PER_RANK, tiny_backbone, tiny_task
from adapad_ray.training.batches import Batches
from adapad_ray.training.passes.lane_passes import DivergedError
from adapad_ray.training.settings import TrainingSettings
from adapad_ray.training.trainer import Trainer

SETTINGS = TrainingSettings(epochs=2, batch_size=8, learning_rate=1e-2)
STEPS = 12


def adapted(**settings):
    """An AdaPaD of up to two lanes and a reserve on a new model."""
    backbone = tiny_backbone()
    modules = target_modules(backbone.model, "all-linear")
    method = Adapad(Adapad.Config(**settings), CellContext(modules, 2 * COST_PER_RANK, STEPS, 0, backbone.parameters))
    method.adapt(backbone.model, backbone.head_modules)
    return method


def outside(method):
    loop = OutsideLoop(method, SETTINGS, total_steps=STEPS, seed=0, device="cpu", loss=tiny_task().loss)
    loop.start()
    return loop


def batches():
    return Batches(tiny_task().splits["train"], SETTINGS, seed=0, pad_token_id=0)


def batch(step):
    return batches().load(batches().rows(step))


@pytest.mark.parametrize("settings", [{}, {"local_steps": 3, "growth_score": "reserve"}], ids=["defaults", "rounds"])
def test_the_result_is_that_of_the_trainer(settings):
    theirs, ours = adapted(**settings), adapted(**settings)
    trainer = Trainer(theirs, batches(), SETTINGS, total_steps=STEPS, loss=tiny_task().loss)
    trainer.start()
    record = trainer.run()
    loop = outside(ours)
    for step in range(STEPS):
        loop.loss_of(batch(step)).backward()
        loop.take_step()
    a, b = theirs.adapted.state(), ours.adapted.state()
    assert a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)
    assert (loop.record.losses, loop.record.growth) == (record.losses, record.growth)
    assert loop.record.work == record.work and loop.record.peak_parameters == record.peak_parameters


def test_the_loss_is_the_sum_over_the_lanes_and_its_gradients_scale_with_it():
    once, twice = outside(adapted()), outside(adapted())
    loss = once.loss_of(batch(0))
    loss.backward()
    (2 * twice.loss_of(batch(0))).backward()
    pairs = list(zip(once.adapted.named_parameters().values(), twice.adapted.named_parameters().values(), strict=True))
    learning = [(p, q) for p, q in pairs if p.grad is not None]
    assert len(once.method.lanes(0)) == 2 and float(loss.detach()) > 1.0  # about log 2 for each
    assert learning and all((2 * p.grad).equal(q.grad) for p, q in learning)


def test_a_loss_without_a_backward_pass_leaves_no_gradient():
    loop = outside(adapted())
    loop.loss_of(batch(0))
    assert all(p.grad is None for p in loop.adapted.named_parameters().values())


def test_a_value_that_is_not_finite_is_found_at_the_end_of_its_round():
    method = adapted(local_steps=2)
    loop = outside(method)
    with torch.no_grad():
        next(iter(method.adapted.named_parameters().values())).fill_(float("nan"))
    loop.loss_of(batch(0)).backward()
    loop.take_step()
    loop.loss_of(batch(1)).backward()
    with pytest.raises(DivergedError, match="lane 1, step 0: the loss is nan"):
        loop.take_step()
