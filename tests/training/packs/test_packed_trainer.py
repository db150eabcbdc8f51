"""The lanes of one cell as slots: the numbers of lanes one after another, whatever the number of slots."""

import numpy as np
import pytest
import torch

from adapad_ray.adapters.packs import NotPackableError, Pack
from adapad_ray.errors import BadRequestError
from adapad_ray.testing import COST_PER_RANK, MethodCase, uninterrupted
from adapad_ray.training.packs import PackedTrainer, SharedPasses
from adapad_ray.training.packs.memory import slots_that_fit
from adapad_ray.training.passes.lane_passes import DivergedError

FIXED = {"initial_rank": 4, "r_max": 4, "local_steps": 3}


def case(slots=1, rank=4, training=None, **config):
    return MethodCase("adapad", rank * COST_PER_RANK, config or FIXED, training=training or {}, slots_per_pass=slots)


LONE = case()
"""One lane after another."""


def trained(case, dtype=torch.float32):
    backbone = case.backbone()
    backbone.model.to(dtype)
    trainer = case.trainer(backbone=backbone)
    trainer.start()
    trainer.run()
    return trainer


def passes_seen(trainer, monkeypatch):
    """The number of slots of every pack that goes through the model from now on."""
    seen = []
    gradients = SharedPasses._add_gradients
    monkeypatch.setattr(
        SharedPasses,
        "_add_gradients",
        lambda self, packed, lanes: seen.append(len(lanes)) or gradients(self, packed, lanes),
    )
    trainer.start()
    trainer.run()
    return seen


@pytest.mark.parametrize(
    "config",
    [
        {**FIXED, "dropout": 0.1, "staleness": 1},
        {"initial_rank": 2, "local_steps": 2},  # the lane that measures gradients trains alone beside the packs
        {"initial_rank": 1, "local_steps": 2, "growth_score": "reserve", "growth_interval": 4},
        {"initial_rank": 3, "r_max": 3, "local_steps": 2, "advance_learning": False, "joint_fraction": 0.3},
        {"initial_rank": 3, "local_steps": 3, "family": "cp"},
    ],
    ids=str,
)
def test_packed_lanes_equal_lanes_one_after_another(config):
    training = {"epochs": 1.5}
    lone = trained(case(training=training, **config), torch.float64)
    expected = lone.adapted.state()
    for slots in (2, 8):
        packed = trained(case(slots, training=training, **config), torch.float64)
        np.testing.assert_allclose(packed.record.losses, lone.record.losses, rtol=0, atol=1e-9)
        assert packed.record.growth == lone.record.growth and vars(packed.record.work) == vars(lone.record.work)
        state = packed.adapted.state()
        assert state.keys() == expected.keys()
        for name, value in state.items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9)


def test_one_slot_is_the_trainer_without_packs_bitwise():
    lone, one = uninterrupted(LONE), case(2).trainer()
    assert isinstance(one, PackedTrainer)
    one.passes.most_slots = 1
    one.start()
    one.run()
    assert one.record.losses == lone.record.losses
    assert all(torch.equal(value, lone.adapted.state()[name]) for name, value in one.adapted.state().items())


def test_auto_is_one_on_a_cpu():
    trainer = case(2).trainer()
    trainer.passes.most_slots = None
    trainer.start()
    trainer.run(stop_at=2)
    assert trainer.passes.most_slots == 1 and not trainer.passes._packs


def test_the_lanes_are_divided_evenly(monkeypatch):
    seen = passes_seen(case(3).trainer(), monkeypatch)
    assert set(seen) == {2} and len(seen) == 2 * 15, "four lanes in packs of at most three"


def test_a_pass_that_needs_too_much_memory_is_divided_and_changes_no_number(monkeypatch):
    """The error is raised by hand: a CPU has none of this kind."""
    lone = uninterrupted(LONE)
    enter = Pack.passing

    def passing(self, *arguments, **options):
        if len(self.slots) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return enter(self, *arguments, **options)

    monkeypatch.setattr(Pack, "passing", passing)
    trainer = case(8).trainer()
    assert set(passes_seen(trainer, monkeypatch)) == {4, 2} and trainer.passes.most_slots == 2
    np.testing.assert_allclose(trainer.record.losses, lone.record.losses, rtol=0, atol=1e-5)


def test_a_lane_that_diverges_is_named_and_ends_the_cell():
    trainer = case(8).trainer()
    trainer.start()
    trainer.run(stop_at=4)
    with torch.no_grad():
        trainer.adapted.heads["classifier"].copies["3"].weight[0, 0] = float("nan")
    with pytest.raises(DivergedError, match="lane 3, step 4"):
        trainer.run()
    assert all(
        value.isfinite().all() for name, value in trainer.adapted.state().items() if name != "classifier|head|3.weight"
    ), "nothing that is not finite has reached another lane"


def test_a_model_that_mixes_its_rows_is_refused():
    """It puts the first example of every slot before the second of any, which no shape shows."""
    trainer = case(4).trainer()
    trainer.start()
    model = trainer.adapted.model

    def turned(value, slots):
        return value.view(slots, -1, *value.shape[1:]).transpose(0, 1).flatten(0, 1)

    def before(module, arguments, options):
        return arguments, {name: turned(value, len(value) // 8) for name, value in options.items()}

    def after(module, arguments, output):
        output.logits = turned(output.logits, 8)
        return output

    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(after)
    with pytest.raises(BadRequestError, match=r"resources\.slots_per_pass is 4: .* set it to 1"):
        trainer.run()


def test_under_auto_such_a_model_trains_its_lanes_alone(monkeypatch):
    def refused(*arguments):
        raise NotPackableError("no")

    lone, trainer = uninterrupted(LONE), case(4).trainer()
    trainer.passes._requested = "auto"
    monkeypatch.setattr(SharedPasses, "_pass", refused)
    trainer.start()
    trainer.run()
    assert trainer.record.losses == lone.record.losses


def test_gradient_checkpointing_changes_no_number_of_a_pack():
    training = {"gradient_checkpointing": True, "epochs": 0.5}
    plain, recomputed = trained(case(4, training={"epochs": 0.5})), trained(case(4, training=training))
    assert plain.record.losses == recomputed.record.losses


def test_slots_are_as_many_as_the_memory_holds():
    gib = 2**30
    assert slots_that_fit(2 * gib, 3 * gib, 80 * gib) == 71
    assert slots_that_fit(2 * gib, 3 * gib, 4 * gib) == 2
    assert slots_that_fit(2 * gib, 3 * gib, 2 * gib) == 1
    assert slots_that_fit(2 * gib, 2 * gib, 2 * gib) == 1
