"""Encoding: flat arrays, deterministic caps, padded batches."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from adapad_ray.errors import BadRequestError
from adapad_ray.models import resolve_model
from adapad_ray.tasks import EncodedSplit, RawTask, encode, load_task


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(resolve_model("minilm-l6").path_or_name)


@pytest.fixture(scope="module")
def rotten_tomatoes(tokenizer):
    return encode(load_task("rotten-tomatoes"), tokenizer, max_length=64, max_train_examples=1600)


@pytest.fixture
def pairs():
    frame = pd.DataFrame(
        {
            "text": [f"premise {'very ' * (i % 7)}{i}" for i in range(40)],
            "text_pair": [f"claim {i}" for i in range(40)],
            "label": [i % 2 for i in range(40)],
        }
    )
    return RawTask("pairs", ("0", "1"), "accuracy", dict.fromkeys(("train", "validation", "test"), frame), "")


SPLIT = EncodedSplit(
    tokens=np.array([1, 2, 3, 4, 5, 6], dtype=np.int32),
    offsets=np.array([0, 3, 4, 6]),
    token_types=np.array([0, 0, 1, 0, 0, 1], dtype=np.int8),
    labels=np.array([0, 1, 1]),
)


def test_rotten_tomatoes_holds_its_own_texts(rotten_tomatoes, tokenizer):
    train = rotten_tomatoes.splits["train"]
    assert len(train) == 1600
    assert (train.tokens.dtype, train.offsets.dtype, train.labels.dtype) == (np.int32, np.int64, np.int64)
    assert train.token_types is None
    assert train.lengths.max() <= 64
    known = load_task("rotten-tomatoes").splits["train"]
    known = dict(zip(known["text"].map(lambda text: tokenizer.decode(tokenizer(text)["input_ids"])), known["label"]))
    for index in (0, 7, 1599):
        tokens = train.tokens[train.offsets[index] : train.offsets[index + 1]]
        assert known[tokenizer.decode(tokens)] == train.labels[index]


def test_a_batch_is_what_the_tokenizer_would_pad(pairs, tokenizer):
    split = encode(pairs, tokenizer, max_length=32).splits["train"]
    batch = split.batch(np.array([3, 0, 11]), tokenizer.pad_token_id)
    rows = [split.tokens[split.offsets[i] : split.offsets[i + 1]].tolist() for i in (3, 0, 11)]
    expected = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
    torch.testing.assert_close(batch["input_ids"], expected["input_ids"])
    torch.testing.assert_close(batch["attention_mask"], expected["attention_mask"])
    assert batch["labels"].tolist() == split.labels[[3, 0, 11]].tolist()
    assert batch["token_type_ids"].sum() == sum(
        split.token_types[split.offsets[i] : split.offsets[i + 1]].sum() for i in (3, 0, 11)
    )


def test_texts_are_padded_on_the_right():
    batch = SPLIT.batch(np.array([2, 0]), pad_token_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 9], [1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 0], [0, 0, 1]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_batches_never_alias_shared_memory():
    frozen = dataclasses.replace(SPLIT, labels=SPLIT.labels.copy(), tokens=SPLIT.tokens.copy())
    for array in (frozen.tokens, frozen.labels):
        array.flags.writeable = False
    batch = frozen.batch(np.array([0, 1, 2]), 0)
    batch["labels"].fill_(7)
    batch["input_ids"].fill_(7)
    assert frozen.labels.tolist() == [0, 1, 1]


def test_evaluation_batches_cover_the_split_once_by_length(rotten_tomatoes):
    split = rotten_tomatoes.splits["test"]
    batches = split.evaluation_batches(100)
    order = np.concatenate(batches)
    assert sorted(order.tolist()) == list(range(len(split)))
    assert (np.diff(split.lengths[order]) >= 0).all()
    assert [len(batch) for batch in batches] == [100] * 25 + [51]


def shuffled(raw):
    splits = {split: frame.sample(frac=1, random_state=1) for split, frame in raw.splits.items()}
    return dataclasses.replace(raw, splits=splits)


def test_rows_in_another_order_give_the_same_arrays(pairs, tokenizer):
    caps = {"max_train_examples": 10, "max_test_examples": 5}
    data = encode(pairs, tokenizer, max_length=32, **caps)
    assert encode(shuffled(pairs), tokenizer, max_length=32, **caps).digest == data.digest
    assert [len(data.splits[split]) for split in ("train", "validation", "test")] == [10, 40, 5]


def test_a_smaller_cap_is_the_beginning_of_a_larger_one(pairs, tokenizer):
    small, large = (encode(pairs, tokenizer, max_length=32, max_train_examples=n).splits["train"] for n in (5, 20))
    np.testing.assert_array_equal(small.tokens, large.tokens[: small.offsets[-1]])


def test_the_digest_follows_what_is_trained_on(pairs, tokenizer):
    digest = encode(pairs, tokenizer, max_length=32).digest
    renamed = dataclasses.replace(pairs, name="other", source_digest="other")
    assert encode(renamed, tokenizer, max_length=32).digest == digest
    classes = dataclasses.replace(pairs, class_names=tuple(f"class {name}" for name in pairs.class_names))
    assert encode(classes, tokenizer, max_length=32).digest != digest
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = padded.sep_token
    assert encode(pairs, padded, max_length=32).digest != digest
    assert encode(pairs, tokenizer, max_length=8).digest != digest
    flipped = {split: frame.assign(label=1 - frame["label"]) for split, frame in pairs.splits.items()}
    assert encode(dataclasses.replace(pairs, splits=flipped), tokenizer, max_length=32).digest != digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 3}, "max_length is 3: this tokenizer takes 4 to 512"),
        ({"max_length": 513}, "max_length is 513"),
        ({"max_length": 32, "max_train_examples": 0}, "max_train_examples is 0"),
        ({"max_length": 32, "max_test_examples": -1}, "max_test_examples is -1"),
    ],
)
def test_bad_arguments(pairs, tokenizer, arguments, message):
    with pytest.raises(BadRequestError, match=message):
        encode(pairs, tokenizer, **arguments)
