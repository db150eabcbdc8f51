"""A pack computes for every slot what the slot computes alone, and nothing else."""

import pytest
import torch
import transformers
from torch.nn import functional as F

from adapad_ray.adapters.cp import Cp
from adapad_ray.adapters.families import PLAIN
from adapad_ray.adapters.lane import Lane
from adapad_ray.adapters.model import AdaptedModel
from adapad_ray.adapters.packs import NotPackableError, Pack, Slot
from adapad_ray.methods.melora import Mini
from adapad_ray.models.target_modules import target_modules
from adapad_ray.testing import tiny_backbone

ROWS, TOKENS = 3, 5


def draw(seed):
    return torch.Generator().manual_seed(seed)


def tiny(kind):
    """A model of two layers in fp64, and the paths of its head."""
    if kind in ("bert", "gpt2"):
        backbone = tiny_backbone(architecture=kind)
        return backbone.model.double(), backbone.head_modules
    config = transformers.DebertaV2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, vocab_size=100,
        relative_attention=True, position_buckets=4, max_relative_positions=16, max_position_embeddings=16,
        pos_att_type="p2c|c2p", norm_rel_ebd="layer_norm", share_att_key=kind == "deberta", type_vocab_size=0,
        position_biased_input=False, initializer_range=0.2, num_labels=2,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.DebertaV2ForSequenceClassification(config)
    return model.double().requires_grad_(False).eval(), ("pooler.dense", "classifier")


def adapted_slot(model, heads, *, family=PLAIN, size=1, blocks=1, lane=None, seed=0, dropout=0.0, skip=()):
    """A cell with random components, as training leaves them, and its lane; the model is given back as it was."""
    shapes = target_modules(model, "all-linear")
    adapted = AdaptedModel(
        model, shapes, heads, scales={s.name: 1 + seed / 8 for s in shapes}, family=family, dropout=dropout
    )
    lane = lane or Lane.joint(blocks)
    with torch.no_grad():
        for i, shape in enumerate(shapes):
            for k in range(0 if i in skip else blocks):
                block = adapted.add_block(shape.name, size, draw(100 * seed + k))
                for parameter in block.parameters():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw(seed + k), dtype=torch.float64))
        (head,) = adapted.add_head(lane.index)[-1:]
        head.weight.add_(torch.randn(head.weight.shape, generator=draw(seed), dtype=torch.float64))
    adapted.publish()
    adapted.detach()
    return Slot(adapted, lane)


def inputs(slots):
    tokens = torch.randint(1, 100, (slots, ROWS, TOKENS), generator=draw(0))
    mask = torch.ones_like(tokens)
    mask[:, -1, TOKENS - 2 :] = 0
    return {"input_ids": tokens, "attention_mask": mask}, torch.arange(ROWS) % 2


def mean_losses(model, batch, labels, slots):
    logits = model(**{key: value.flatten(0, 1) for key, value in batch.items()}).logits
    return F.cross_entropy(logits, labels.repeat(slots), reduction="none").view(slots, -1).mean(dim=1)


def alone(slot, index, batch, labels):
    """Loss and gradients of a slot on its rows of the batch, by plain lanes."""
    model, adapted = slot.adapted.model, slot.adapted
    for name, layer in adapted.layers.items():
        model.set_submodule(name, layer)
    for path, head in adapted.heads.items():
        model.set_submodule(path, head)
    parameters = adapted.parameters(slot.lane)
    for parameter in parameters:
        parameter.grad = None
    adapted.use(slot.lane, draw(index))
    loss = mean_losses(model, {key: value[index : index + 1] for key, value in batch.items()}, labels, 1)[0]
    loss.backward()
    gradients = [p.grad if p.grad is None else p.grad.clone() for p in parameters]
    adapted.detach()
    return loss.detach(), gradients


def in_pack(slots, batch, labels):
    pack = Pack(slots)
    with pack.passing(len(slots) * ROWS, [draw(index) for index in range(len(slots))]):
        losses = mean_losses(pack.model, batch, labels, len(slots))
        losses.sum().backward()
    gradients = [[p.grad for p in slot.adapted.parameters(slot.lane)] for slot in slots]
    return losses.detach(), gradients


def assert_equal(slots, batch, labels, chosen=None):
    expected = [alone(slot, index, batch, labels) for index, slot in enumerate(slots)]
    losses, gradients = in_pack(slots, batch, labels)
    for index in range(len(slots)) if chosen is None else chosen:
        torch.testing.assert_close(losses[index], expected[index][0], rtol=0, atol=1e-12)
        for ours, theirs in zip(gradients[index], expected[index][1], strict=True):
            torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=0, atol=1e-10)


def test_eight_slots_of_three_families_have_the_losses_and_gradients_of_autograd():
    model, heads = tiny("bert")
    kinds = [
        {"size": 3},
        {"size": 1, "skip": (0, 4, 11), "dropout": 0.2},
        {"family": Cp(), "size": 2},
        {"family": Cp(), "size": 4, "blocks": 2},
        {"family": Mini(2), "size": 4},
        {"family": Mini(4), "size": 4, "dropout": 0.4},
        {"blocks": 4, "lane": Lane.deflation(3), "dropout": 0.3},
        {"blocks": 2, "size": 2, "lane": Lane.prefix(2)},
    ]
    slots = [adapted_slot(model, heads, seed=seed, **kind) for seed, kind in enumerate(kinds)]
    assert_equal(slots, *inputs(len(slots)))


@pytest.mark.parametrize("kind", ["gpt2", "deberta", "deberta with own projections"])
def test_other_models_do_too(kind):
    """GPT-2 has transposed weights; DeBERTa projects relative positions, which have no axis of examples."""
    model, heads = tiny(kind)
    slots = [adapted_slot(model, heads, seed=seed, size=seed + 1, dropout=0.2 * (seed == 1)) for seed in range(3)]
    assert_equal(slots, *inputs(3))
    assert {type(module).__name__ for module in model.modules()}.isdisjoint({"PackedDisentangledAttention"})


def test_what_is_not_finite_stays_in_its_slot():
    model, heads = tiny("deberta")
    slots = [adapted_slot(model, heads, seed=seed, size=2) for seed in range(3)]
    with torch.no_grad():
        next(iter(slots[1].adapted.layers.values())).active()[0].a.fill_(float("nan"))
    batch, labels = inputs(3)
    assert_equal(slots, batch, labels, chosen=(0, 2))
    losses, _ = in_pack(slots, batch, labels)
    assert losses.isfinite().tolist() == [True, False, True]


def test_parameters_stay_readable_and_writable_where_they_were():
    model, heads = tiny("bert")
    slots = [adapted_slot(model, heads, seed=seed, size=1 + seed) for seed in range(2)]
    before = {name: value.clone() for name, value in slots[1].adapted.state().items()}
    pack = Pack(slots)
    assert all(torch.equal(value, before[name]) for name, value in slots[1].adapted.state().items())
    pack.rows.values.zero_()
    assert not any(p.any() for p in slots[1].adapted.named_parameters().values())


def test_new_published_values_act_after_a_refresh():
    model, heads = tiny("bert")
    slots = [adapted_slot(model, heads, blocks=2, lane=Lane.deflation(k), seed=k) for k in (2, 1)]
    batch, labels = inputs(2)
    pack = Pack(slots)
    with torch.no_grad():
        for layer in slots[0].adapted.layers.values():
            layer.active()[0].a.mul_(2)
    slots[0].adapted.publish([1])
    pack.frozen.refresh()
    with torch.no_grad(), pack.passing(2 * ROWS):
        losses = mean_losses(model, batch, labels, 2)
    for index, slot in enumerate(slots):
        torch.testing.assert_close(losses[index], alone(slot, index, batch, labels)[0], rtol=0, atol=1e-12)


def test_an_input_whose_rows_are_not_the_examples_is_refused():
    model, heads = tiny("bert")
    pack = Pack([adapted_slot(model, heads, seed=seed) for seed in range(2)])
    tokens = inputs(2)[0]["input_ids"].flatten(0, 1)
    for rows in (ROWS, 2 * ROWS + 1):
        with pytest.raises(NotPackableError, match="first axis"), pack.passing(rows):
            model(input_ids=tokens)
    with pytest.raises(NotPackableError, match="first axis"), pack.passing(2 * ROWS):
        model(input_ids=tokens[:1])


def test_slots_that_cannot_share_a_pass_are_refused():
    model, heads = tiny("bert")
    slot = adapted_slot(model, heads)
    with pytest.raises(NotPackableError, match="two slots"):
        Pack([slot, slot])
    with pytest.raises(NotPackableError, match="same frozen weights"):
        Pack([slot, adapted_slot(*tiny("bert"))])
