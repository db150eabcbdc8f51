"""Batches: their order, and padding that changes nothing."""

import numpy as np
import pytest
import torch

from adapad_ray.tasks.encoding.prompts import prompted
from adapad_ray.tasks.losses import IGNORED
from adapad_ray.testing import MethodCase, tiny_task, uninterrupted
from adapad_ray.training.batches import Batches, epoch_batches, joined, pad_to_multiple
from adapad_ray.training.settings import TrainingSettings


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


def test_texts_are_widened_on_the_right():
    batch = tiny_task().splits["train"].batch(np.arange(5), pad_token_id=7)
    width = batch["input_ids"].shape[1]
    wide = pad_to_multiple(batch, 8, pad_token_id=7)
    assert wide["input_ids"].shape == wide["attention_mask"].shape == (5, 8 * -(-width // 8))
    assert torch.equal(wide["input_ids"][:, :width], batch["input_ids"]) and (wide["input_ids"][:, width:] == 7).all()
    assert wide["attention_mask"].sum() == batch["attention_mask"].sum()
    assert pad_to_multiple(batch, 1, 7).keys() == batch.keys()
    torch.testing.assert_close(pad_to_multiple(batch, 1, 7)["input_ids"], batch["input_ids"])


def test_prompts_are_widened_on_the_left_and_their_answers_stay_at_the_end():
    split = prompted([[5, 6, 7], [5, 6, 7, 8, 9]], [1, 2], np.zeros(2, dtype=np.int64))
    batch = split.batch(np.arange(2), pad_token_id=0)
    wide = pad_to_multiple(batch, 4, pad_token_id=0, left=True)
    assert wide["input_ids"].tolist() == [[0, 0, 0, 0, 0, 5, 6, 7], [0, 0, 0, 5, 6, 7, 8, 9]]
    assert wide["position_ids"].tolist() == [[0] * 6 + [1, 2], [0, 0, 0, 0, 1, 2, 3, 4]]
    for name in ("labels", "logits_to_keep"):
        assert torch.equal(wide[name], batch[name])


def test_training_on_wider_batches_is_the_same_up_to_rounding():
    case = MethodCase("lora", training={"max_length": 16})
    wide = MethodCase("lora", training={"max_length": 16, "pad_to_multiple_of": 8})
    a, b = uninterrupted(case), uninterrupted(wide)
    np.testing.assert_allclose(a.record.losses, b.record.losses, rtol=1e-4)
    assert b.record.work.padded_tokens % 8 == 0 and b.record.work.padded_tokens > a.record.work.padded_tokens
    assert b.record.work.tokens == a.record.work.tokens


def test_joined_batches_stand_one_below_another_at_the_width_of_the_widest():
    batches = Batches(tiny_task().splits["train"], TrainingSettings(batch_size=4), seed=0, pad_token_id=0)
    first, second = (batches.load(np.array(rows)) for rows in ([0, 1], [2, 3, 4]))
    whole = joined([first, second], pad_token_id=0)
    width = max(batch.inputs["input_ids"].shape[1] for batch in (first, second))
    assert whole.inputs["input_ids"].shape == (5, width) and whole.labels.tolist() == [0, 1, 0, 1, 0]
    assert whole.size == (first.size[0] + second.size[0], 5 * width)
    for batch, rows in ((first, slice(0, 2)), (second, slice(2, 5))):
        own = batch.inputs["attention_mask"].bool()
        assert whole.inputs["attention_mask"][rows].sum() == own.sum()
        assert torch.equal(whole.inputs["input_ids"][rows][:, : own.shape[1]][own], batch.inputs["input_ids"][own])


def test_joined_prompts_keep_the_logits_of_the_longest_answer():
    split = prompted([[5, 6, 7], [5, 6, 7, 8, 9]], [1, 2], np.zeros(2, dtype=np.int64))
    batches = Batches(split, TrainingSettings(batch_size=2), seed=0, pad_token_id=0)
    both, short = batches.load(np.arange(2)), batches.load(np.array([0]))
    whole = joined([short, both], pad_token_id=0, left=batches.pads_left)
    assert torch.equal(whole.inputs["logits_to_keep"], both.inputs["logits_to_keep"])
    assert whole.inputs["input_ids"].tolist() == [[0, 0, 5, 6, 7], [0, 0, 5, 6, 7], [5, 6, 7, 8, 9]]
    assert whole.labels.tolist() == [[IGNORED, 7], [IGNORED, 7], [8, 9]]


def test_in_step_the_batches_of_a_step_are_about_as_long_for_every_seed():
    lengths = np.random.default_rng(0).integers(5, 60, 403)

    def longest(seed, in_step):
        batches = epoch_batches(seed, 1, lengths, 8, group_by_length=True, in_step=in_step)
        assert sorted(np.concatenate(batches)) == list(range(403))
        return np.array([lengths[rows].max() for rows in batches])

    together, apart = (np.abs(longest(1, in_step) - longest(2, in_step)).mean() for in_step in (True, False))
    assert together < 3 < 10 < apart


def test_the_widest_batch_holds_the_longest_texts():
    data = tiny_task().splits["train"]
    widest = Batches(data, TrainingSettings(batch_size=4), seed=0, pad_token_id=0).widest()
    assert widest.size[0] == np.sort(data.lengths)[-4:].sum()
