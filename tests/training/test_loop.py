"""The training loop: its batches, its schedule, and plain LoRA as PEFT trains it."""

import os
import threading
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adapad_ray.models import initialise_head
from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_backbone, tiny_task
from adapad_ray.training.checkpoint import Checkpoint
from adapad_ray.training.optimizer import ComponentOptimizer
from adapad_ray.training.randomness import derive_seed, epoch_batches
from adapad_ray.training.settings import TrainingSettings


def test_lora_has_the_losses_of_pefts_lora():
    """The reference is written with PEFT, torch's AdamW, LambdaLR and gradient clipping alone."""
    training = {"epochs": 20 / 6, "learning_rate": 2e-2, "weight_decay": 0.01, "warmup_fraction": 0.2}
    trainer = MethodCase("lora", 2 * COST_PER_RANK, {"lora_alpha": 3.0}, training=training).trainer()
    trainer.start()
    assert trainer.total_steps == 20

    backbone = tiny_backbone()
    initialise_head(backbone.model, backbone.head_modules, derive_seed(0, "head"))
    config = peft.LoraConfig(
        r=2, lora_alpha=3.0, target_modules=list(trainer.adapted.layers), modules_to_save=["classifier"]
    )
    model = peft.get_peft_model(backbone.model, config).eval()
    for name, layer in trainer.adapted.layers.items():
        theirs = model.get_submodule(f"base_model.model.{name}")
        assert not layer.active()[0].b.any() and not theirs.lora_B["default"].weight.any()
        theirs.lora_A["default"].weight.data.copy_(layer.active()[0].a)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-2, weight_decay=0.01)
    rising = [1 / 4, 2 / 4, 3 / 4, 4 / 4]
    falling = [(20 - step) / 16 for step in range(4, 21)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, (rising + falling).__getitem__)
    split, losses = tiny_task().splits["train"], []
    for step in range(20):
        rows = epoch_batches(0, step // 6, split.lengths, 8, group_by_length=True)[step % 6]
        batch = split.batch(rows, pad_token_id=0)
        labels = batch.pop("labels")
        loss = F.cross_entropy(model(**batch).logits, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())

    record = trainer.run()
    np.testing.assert_allclose(record.losses, losses, rtol=0, atol=1e-5)
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6]), "it learns, so the comparison says something"


@pytest.mark.parametrize("group_by_length", [True, False])
@pytest.mark.parametrize("examples", [1, 7, 8, 50, 1001])
def test_an_epoch_covers_every_example_exactly_once(examples, group_by_length):
    lengths = np.random.default_rng(examples).integers(1, 60, examples)
    batches = epoch_batches(3, 0, lengths, 8, group_by_length=group_by_length)
    assert sorted(np.concatenate(batches)) == list(range(examples))
    assert sorted(map(len, batches), reverse=True)[: examples // 8] == [8] * (examples // 8)
    assert len(batches) == TrainingSettings(batch_size=8).steps_per_epoch(examples)


@pytest.mark.parametrize("group_by_length", [True, False])
def test_the_order_is_a_function_of_seed_and_epoch(group_by_length):
    lengths = np.random.default_rng(0).integers(1, 60, 100)

    def order(seed, epoch):
        return np.concatenate(epoch_batches(seed, epoch, lengths, 8, group_by_length=group_by_length)).tolist()

    first = order(0, 0)
    torch.manual_seed(123)
    np.random.seed(123)
    assert order(0, 0) == first
    assert order(0, 1) != first and order(1, 0) != first and order(1, 0) != order(0, 1)


def test_grouping_by_length_saves_padding():
    lengths = np.random.default_rng(0).integers(1, 60, 400)
    padded = [
        sum(len(b) * lengths[b].max() for b in epoch_batches(0, 0, lengths, 8, group_by_length=grouped))
        for grouped in (True, False)
    ]
    assert padded[0] < 0.7 * padded[1]


def test_the_learning_rate_rises_linearly_and_falls_linearly_to_zero():
    settings = TrainingSettings(warmup_fraction=0.1)
    rates = [settings.schedule(step, 40) for step in range(41)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    np.testing.assert_allclose(rates[4:], np.linspace(1, 0, 37), atol=1e-12)
    assert all(rate > 0 for rate in rates[:40]), "no step is wasted"
    assert [TrainingSettings(warmup_fraction=0).schedule(step, 1) for step in (0,)] == [1.0]


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


def test_gradients_are_clipped_lane_by_lane():
    """A lane's step does not depend on how large the gradients of the others are."""
    case = MethodCase(
        "adapad", 2 * COST_PER_RANK, {"initial_rank": 2, "local_steps": 50}, training={"max_grad_norm": 1e-3}
    )
    plain, disturbed = case.trainer(), case.trainer()
    for trainer in (plain, disturbed):
        trainer.start()
    with torch.no_grad():
        disturbed.adapted.heads["classifier"].copies["2"].weight.mul_(100)
    for trainer in (plain, disturbed):
        trainer.run(stop_at=5)
    first = [n for n in plain.adapted.state() if "|1|" in n or "|head|1." in n]
    a, b = plain.adapted.state(), disturbed.adapted.state()
    assert first and all(torch.equal(a[name], b[name]) for name in first)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("moment", ["before the file is written", "before it takes its place", "afterwards"])
def test_a_kill_while_saving_leaves_a_whole_checkpoint(tmp_path, monkeypatch, moment):
    folder = tmp_path / "checkpoint"
    Checkpoint({"x": torch.ones(1)}, {"step": 1}).save(folder)
    replace = os.replace

    def killed(*args, **kwargs):
        if moment == "afterwards":
            replace(*args)
        raise Killed

    target = "adapad_ray.training.checkpoint.save_file" if moment.endswith("written") else "os.replace"
    monkeypatch.setattr(target, killed)
    monkeypatch.setattr(Path, "unlink", lambda *args, **kwargs: None)  # the dead clear nothing away
    with pytest.raises(Killed):
        Checkpoint({"x": torch.full((1,), 2.0)}, {"step": 2}).save(folder)
    monkeypatch.undo()
    saved = Checkpoint.load(folder)
    assert saved is not None
    assert float(saved.tensors["x"]) == saved.meta["step"] == (2 if moment == "afterwards" else 1)
    Checkpoint.remove(folder)
    assert not folder.exists()


def test_who_reads_while_another_writes_gets_one_checkpoint_or_the_other(tmp_path):
    """As when a worker resumes a cell whose old worker is not quite dead."""
    folder = tmp_path / "checkpoint"

    def write():
        for step in range(1, 300):
            Checkpoint({"x": torch.full((1000,), float(step))}, {"step": step}).save(folder)

    Checkpoint({"x": torch.zeros(1000)}, {"step": 0}).save(folder)
    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while writer.is_alive():
        saved = Checkpoint.load(folder)
        assert saved is not None and bool((saved.tensors["x"] == saved.meta["step"]).all())
        seen.add(saved.meta["step"])
    writer.join()
    assert len(seen) > 1


def test_there_may_be_no_checkpoint(tmp_path):
    assert Checkpoint.load(tmp_path / "checkpoint") is None
