"""The trainer: plain LoRA as PEFT trains it, and lanes that do not disturb each other."""

import numpy as np
import peft
import torch
from torch import nn
from torch.nn import functional as F

from adapad_ray.models import initialise_head
from adapad_ray.testing import COST_PER_RANK, MethodCase, tiny_backbone, tiny_task
from adapad_ray.training.batches import epoch_batches
from adapad_ray.training.randomness import derive_seed


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
