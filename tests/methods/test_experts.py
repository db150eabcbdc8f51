"""Mixtures of experts: every method trains over experts that no token of a step, or of the whole training, reaches."""

from types import SimpleNamespace

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from whole_cells import compute, identity_of

from adapad_ray.errors import BadRequestError
from adapad_ray.methods import METHODS
from adapad_ray.models import Backbone, backbone_parameters
from adapad_ray.testing import tiny_task
from adapad_ray.training.cell import Workspace
from adapad_ray.training.cell.evaluation import predict
from adapad_ray.training.settings import TrainingSettings
from tests.architectures import DECODER

CONFIGS = {"adapad": {"local_steps": 1}, "ard": {"rank_interval": 2}, "para": {"parent_rank": 4}}
TRAINING = TrainingSettings(epochs=0.25, batch_size=2, max_length=10, learning_rate=1e-2)
"""Six steps of a few tokens on `tiny_task`."""


class Expert(nn.Module):
    """One feed-forward network, as a module of its own."""

    def __init__(self):
        super().__init__()
        self.up_proj, self.down_proj = nn.Linear(32, 8, bias=False), nn.Linear(8, 32, bias=False)

    def forward(self, x):
        return self.down_proj(torch.relu(self.up_proj(x)))


class Experts(nn.ModuleList):
    """Experts that are called only where a token is sent to them."""

    def forward(self, hidden, indices, weights):
        out = torch.zeros_like(hidden)
        for i in indices.unique().tolist():
            token, choice = torch.where(indices == i)
            out = out.index_add(0, token, self[i](hidden[token]) * weights[token, choice, None])
        return out


def make_backbone(listed=True):
    """A Mixtral of eight experts, as modules of their own after which a ninth has no route, or in one parameter."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.MixtralConfig(**DECODER, num_local_experts=8, num_experts_per_tok=1, num_labels=2)
        model = transformers.MixtralForSequenceClassification(config)
        for layer in model.model.layers if listed else ():
            layer.mlp.experts = Experts(Expert() for _ in range(9))
    model.requires_grad_(False).eval()
    tokenizer = SimpleNamespace(pad_token_id=0)
    return Backbone("tiny", model, tokenizer, ("score",), "own", "", backbone_parameters(model, ["score"]))


def train(method, backbone, folder, slots=1):
    """A finished cell of six steps, and of its parent before it where it has one."""
    workspace, config = Workspace(backbone, tiny_task()), CONFIGS.get(method, {})
    return compute(
        identity_of(method, workspace, config, TRAINING, ranks=4, packed=slots > 1), workspace, folder, slots
    )


@pytest.mark.parametrize("method", METHODS)
def test_experts_that_no_token_reaches_learn_nothing_and_stop_nothing(method, tmp_path):
    result = train(method, make_backbone(), tmp_path)
    if result.final.adapter is None:
        return
    folder = tmp_path / "cell" / result.final.adapter
    factors = load_file(folder / "adapter_model.safetensors")
    learned = {key: float(t.abs().max()) for key, t in factors.items() if ".experts." in key and ".lora_B." in key}
    assert max(learned.values()) > 1e-3
    # IncreLoRA's components begin with a small update of their own.
    assert max((value for key, value in learned.items() if ".experts.8." in key), default=0) < 1e-4
    model = peft.PeftModel.from_pretrained(make_backbone().model, folder)
    np.testing.assert_allclose(logits_of(model), stored_logits(tmp_path), rtol=0, atol=2e-5)


@pytest.mark.parametrize("method", ["lora", "adapad"])
def test_the_layers_around_experts_in_one_parameter_are_adapted(method, tmp_path):
    result = train(method, make_backbone(listed=False), tmp_path, slots=2)
    assert 0 < result.final.parameters <= result.identity.budget
    assert {name.rpartition(".")[2] for name in result.identity.target_modules} == {
        "q_proj", "k_proj", "v_proj", "o_proj",
    }  # fmt: skip
    model = peft.PeftModel.from_pretrained(make_backbone(listed=False).model, tmp_path / "cell" / result.final.adapter)
    np.testing.assert_allclose(logits_of(model), stored_logits(tmp_path), rtol=0, atol=2e-5)


def test_lanes_do_not_share_passes_over_experts_because_their_tokens_are_mixed_there(tmp_path):
    with pytest.raises(BadRequestError, match=r"slots_per_pass is 2: .*set it to 1"):
        train("adapad", make_backbone(), tmp_path, slots=2)


def logits_of(model):
    return predict(model, tiny_task().splits["test"], batch_size=64, pad_token_id=0)


def stored_logits(folder):
    return load_file(folder / "cell" / "predictions.safetensors")["test/final"].numpy()
