"""Masks made from what the host knows about a batch are those that transformers makes after reading it."""

import numpy as np
import pytest
import torch
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from adapad_ray.testing import tiny_backbone, tiny_task
from adapad_ray.training.batches import Batch, Batches
from adapad_ray.training.passes.attention_masks import known_padding
from adapad_ray.training.settings import TrainingSettings


def batch(padded: bool) -> Batch:
    split = tiny_task().splits["train"]
    rows = np.arange(6) if padded else np.flatnonzero(split.lengths == split.lengths[0])
    return Batches(split, TrainingSettings(), seed=0, pad_token_id=0).load(rows)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "falcon"])
def test_the_outputs_are_bitwise_the_same(architecture, attention, padded):
    model, examples = tiny_backbone(architecture=architecture).model, batch(padded)
    model.config._attn_implementation = attention
    assert examples.padded == padded
    read = model(**examples.inputs).logits
    with known_padding(examples):
        known = model(**examples.inputs).logits
    assert torch.equal(known, read)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("create", [create_causal_mask, create_sliding_window_causal_mask])
def test_causal_masks_are_the_same_with_and_without_a_window(create, padded):
    config = tiny_backbone(architecture="gpt2").model.config
    config._attn_implementation, config.sliding_window = "sdpa", 3
    examples = batch(padded)
    mask = examples.inputs["attention_mask"]
    arguments = {"inputs_embeds": torch.zeros(*mask.shape, 8), "attention_mask": mask, "past_key_values": None}
    read = create(config, **arguments)
    with known_padding(examples):
        known = create(config, **arguments)
    assert (read is None) == (known is None) == (create is create_causal_mask and not padded)
    assert read is None or torch.equal(read, known)


def test_a_mask_that_is_not_the_batchs_is_read():
    """A model may make another one, as encoder-decoders and models that pad to a window do."""
    config = tiny_backbone(architecture="gpt2").model.config
    config._attn_implementation = "sdpa"
    other = torch.ones(3, 12, dtype=torch.long)
    other[0, 8:] = 0
    arguments = {"inputs_embeds": torch.zeros(3, 12, 8), "attention_mask": other, "past_key_values": None}
    with known_padding(batch(padded=False)):
        assert torch.equal(create_causal_mask(config, **arguments)[0, 0, -1], other[0].bool())
