"""The loss of answers in chunks: the numbers of all logits at once, for every way in which models make logits."""

import numpy as np
import pytest
import torch
import transformers

from adapad_ray.budget import ModuleShape
from adapad_ray.methods import METHODS
from adapad_ray.methods.plan import CellContext
from adapad_ray.models.target_modules import target_modules
from adapad_ray.tasks.losses import answer_cross_entropy
from adapad_ray.training.batches import Batches, joined
from adapad_ray.training.passes import token_losses
from adapad_ray.training.passes.sequence_packing import forward
from adapad_ray.training.passes.token_losses import example_losses
from adapad_ray.training.settings import TrainingSettings
from tests.training.passes.test_sequence_packing import CONFIGS, SMALL, model_of, prompts

KINDS = {
    "llama": CONFIGS["llama"],
    "opt": CONFIGS["opt"],
    "softcapped": transformers.Gemma3TextConfig(
        **SMALL, num_key_value_heads=1, head_dim=8, sliding_window=4, final_logit_softcapping=2.0
    ),
    "divided": transformers.GraniteConfig(**SMALL, num_key_value_heads=1, logits_scaling=4.0),
    "multiplied": transformers.CohereConfig(**SMALL, num_key_value_heads=1, logit_scale=0.25),
}


class Unknown(transformers.LlamaForCausalLM):
    """A model that makes its logits in a way of its own."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits.sinh()
        return output


@pytest.fixture(autouse=True)
def chunks_of_five_tokens(monkeypatch):
    monkeypatch.setattr(token_losses, "MOST_LOGITS_ON_CPU", 5 * SMALL["vocab_size"])


def adapted(model, names, *more):
    """The model with LoRA on some modules, and its learning parameters."""
    modules = (*target_modules(model, names), *more)
    lora = METHODS["lora"]
    cost = sum(m.component_cost for m in modules)
    method = lora(lora.Config(), CellContext(modules, 2 * cost, total_steps=1, seed=0))
    method.adapt(model, ())
    method.build(torch.Generator().manual_seed(0))
    lane = method.lanes(0)[0]
    method.adapted.use(lane)
    return method.adapted.parameters(lane)


def batch_of(rows, **training):
    settings = TrainingSettings(batch_size=len(rows), max_length=24, **training)
    return Batches(prompts(), settings, seed=0, pad_token_id=0).load(np.array(rows))


def assert_same_losses(model, parameters, batch):
    """Losses, and gradients of a weighted sum of them, to 1e-9."""
    whole = answer_cross_entropy(forward(model, batch), batch.labels)
    weights = torch.linspace(0.5, 2, len(whole), dtype=whole.dtype)
    expected = torch.autograd.grad((whole * weights).sum(), parameters)
    chunked = example_losses(model, batch, answer_cross_entropy)
    found = torch.autograd.grad((chunked * weights).sum(), parameters)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-9)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    assert any(gradient.any() for gradient in expected)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_losses_and_gradients_are_those_of_all_logits(name, packed):
    model = model_of(KINDS[name])
    parameters = adapted(model, "all-linear")
    tokens = []
    hook = model.get_output_embeddings().register_forward_hook(lambda _, a, y: tokens.append(y[..., 0].numel()))
    batch = batch_of(range(8), pack_sequences=packed)
    example_losses(model, batch, answer_cross_entropy)  # what it learns of the model, it learns once
    tokens.clear()
    example_losses(model, batch, answer_cross_entropy)
    assert sum(tokens) == 1 + int((batch.labels != -100).sum()) and max(tokens) == 5
    hook.remove()
    assert_same_losses(model, parameters, batch)


@pytest.mark.parametrize("packed", [False, True])
def test_batches_of_several_slots_are_joined_with_what_they_learn(packed):
    model = model_of(KINDS["llama"])
    parameters = adapted(model, "all-linear")
    both = joined(
        [batch_of([0, 1, 2], pack_sequences=packed), batch_of([3, 9, 11], pack_sequences=packed)], 0, left=True
    )
    assert torch.equal(both.learnt, both.labels != -100)
    assert_same_losses(model, parameters, both)


def test_an_unknown_way_of_making_logits_and_an_adapted_output_embedding_see_all_logits():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unknown = Unknown(KINDS["llama"]).double().requires_grad_(False).eval()
    assert_same_losses(unknown, adapted(unknown, ["q_proj"]), batch_of(range(8)))
    model = model_of(KINDS["llama"])
    head = ModuleShape("lm_head", SMALL["hidden_size"], SMALL["vocab_size"])
    assert_same_losses(model, adapted(model, ["q_proj"], head), batch_of(range(8)))


def test_where_nothing_learns_there_are_losses_without_gradients():
    model, batch = model_of(KINDS["llama"]), batch_of(range(8))
    losses = example_losses(model, batch, answer_cross_entropy)
    assert not losses.requires_grad
    torch.testing.assert_close(losses, answer_cross_entropy(forward(model, batch), batch.labels), rtol=0, atol=1e-12)
