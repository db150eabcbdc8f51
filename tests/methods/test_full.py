"""Full fine-tuning: every weight learns in a private copy, and the backbone comes back untouched."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from adapad_ray.adapters.external_models import FullModel
from adapad_ray.adapters.lane import Lane
from adapad_ray.distributed.shared_backbone import share_backbone
from adapad_ray.results import Cost
from adapad_ray.testing import MethodCase, tiny_backbone, tiny_workspace
from adapad_ray.training.passes.lane_passes import DivergedError
from tests.methods.reference import backbone_with_head, train

CASE = MethodCase("full", None, training={"learning_rate": 1e-2})


@pytest.fixture(scope="module")
def trainer():
    trainer = CASE.trainer()
    trainer.start()
    trainer.run()
    return trainer


def test_losses_and_weights_are_those_of_plain_training_at_a_tenth_of_the_rate(trainer):
    model = backbone_with_head().requires_grad_(True)
    losses = train(model, learning_rate=1e-3)
    np.testing.assert_allclose(trainer.record.losses, losses, rtol=0, atol=1e-5)
    theirs = dict(model.named_parameters())
    for name, ours in trainer.adapted.trained().items():
        if name.endswith("self.key|1|bias"):
            continue  # softmax does not feel it: its gradient is rounding, which Adam makes steps of
        np.testing.assert_allclose(ours.detach(), theirs[name.replace("|1|", ".")].detach(), atol=1e-5)


def test_every_weight_learns_that_the_task_reaches(trainer):
    start = dict(tiny_backbone().model.named_parameters())
    still = [n for n, p in trainer.adapted.trained().items() if torch.equal(p, start[n.replace("|1|", ".")])]
    assert still == []


def test_the_count_is_the_backbones_and_no_adapter_stands_beside_it(trainer, tmp_path):
    backbone = tiny_backbone()
    result = CASE.run(tmp_path)
    assert result.final.parameters == backbone.parameters == trainer.record.peak_parameters
    assert result.final.adapter is None and result.final.ranks == {} and result.budget_remainder == 0
    assert not list(tmp_path.glob("adapter*"))


@pytest.mark.parametrize("pooling", ["mean", "own"])
def test_the_planned_count_is_the_deployed_one(pooling):
    case = MethodCase("full", None, pooling=pooling)
    adapted = case.trainer().adapted
    assert case.make().plan().parameters == adapted.deployed_parameters(Lane.prefix(1))


def test_a_pass_costs_three_forward_passes_of_the_backbone(tmp_path):
    def flops(method: str) -> float:
        cost: Cost = MethodCase(method, None).run(tmp_path / method).cost
        return cost.train_flops

    assert flops("full") == 3 * flops("head_only")


def test_shared_read_only_weights_are_neither_written_nor_kept_from_later_cells(tmp_path):
    """As in a pool on the CPU, where the weights are memory that all processes read."""
    workspace = dataclasses.replace(tiny_workspace(), backbone=share_backbone(tiny_backbone()).open("cpu"))
    model, head = workspace.backbone.model, workspace.backbone.head_modules
    before = {n: (p, p.data_ptr()) for n, p in model.named_parameters() if n.rpartition(".")[0] not in head}
    expected = MethodCase("lora").run(tmp_path / "alone")
    CASE.run(tmp_path / "full", workspace)
    plain = dict(tiny_backbone().model.named_parameters())
    for name, (p, address) in before.items():
        now = model.get_parameter(name)
        assert now is p and now.data_ptr() == address and torch.equal(now, plain[name])
        assert not now.requires_grad and now.grad is None
    after = MethodCase("lora").run(tmp_path / "after", workspace)
    assert after.train_loss == expected.train_loss and after.points[0].test == expected.points[0].test


def test_a_cell_that_fails_gives_the_weights_back(tmp_path):
    workspace = tiny_workspace()
    before = dict(workspace.backbone.model.named_parameters())
    with pytest.raises(DivergedError):
        CASE.run(tmp_path, workspace, training={**CASE.identity().training, "learning_rate": 3e38})
    assert all(workspace.backbone.model.get_parameter(name) is p for name, p in before.items())


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.unembed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False), nn.Linear(5, 2)
            self.unembed.weight = self.embed.weight

    model = Tied()
    original = model.embed.weight
    adapted = FullModel(model, ("head",))
    assert model.embed.weight is model.unembed.weight is not original
    assert adapted.adapter_parameters() == 15 and list(adapted.state()) == ["embed|1|weight"]
    adapted.detach()
    assert model.embed.weight is model.unembed.weight is original


def test_the_copies_of_a_bf16_backbone_learn_in_fp32(tmp_path):
    workspace = tiny_workspace()
    workspace.backbone.model.to(torch.bfloat16)
    adapted = FullModel(workspace.backbone.model, workspace.backbone.head_modules)
    assert {p.dtype for p in adapted.trained().values()} == {torch.float32}
    adapted.detach()
    losses = CASE.run(tmp_path, workspace).train_loss
    assert np.mean(losses[-6:]) < np.mean(losses[:6])
    assert {p.dtype for p in workspace.backbone.model.parameters()} == {torch.bfloat16}
