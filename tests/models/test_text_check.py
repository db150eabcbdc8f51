"""A model, its tokenizer and the texts are held against each other, whether the weights are loaded or not."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from adapad_ray.errors import BadRequestError
from adapad_ray.models import CAUSAL, SEQUENCES, Reading, check_texts, load_backbone, load_skeleton, load_tokenizer
from adapad_ray.tasks.encoding.prompts import prompted
from adapad_ray.tasks.encoding.texts import encode_texts
from adapad_ray.training.batches import pad_to_multiple
from tests.architectures import DECODER, ENCODER
from tests.models.test_padding import OTHERS
from tests.models.tiny_configs import words

BERT = partial(transformers.BertConfig, **ENCODER)
LLAMA = partial(transformers.LlamaConfig, **DECODER)


def text(tokens):
    """A text that becomes so many tokens."""
    return " ".join(f"w{4 + i % 90}" for i in range(tokens - 2))


@pytest.fixture
def check(tmp_path):
    """Saves a model and a tokenizer, checks texts with the weights and without, and returns the warnings of both."""

    def run(config, texts, pairs=None, tokenizer=None, multiple=1, max_length=200):
        transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
        (words() if tokenizer is None else tokenizer).save_pretrained(tmp_path)
        read = load_tokenizer(str(tmp_path))
        frame = pd.DataFrame({"text": texts, "label": 0} | ({} if pairs is None else {"text_pair": pairs}))
        split = encode_texts(frame, read, max_length, np.int64)
        added = read.num_special_tokens_to_add(pair=pairs is not None)
        pad = partial(pad_to_multiple, multiple=multiple, pad_token_id=read.pad_token_id, left=split.pads_left)
        return both(str(tmp_path), {"train": split}, read, SEQUENCES, added, pad)

    return run


def both(folder, splits, tokenizer, auto_class, added=None, pad=dict, answer_tokens=0):
    """The warnings; a refusal must be the same with weights as without."""
    found = []
    for model in (
        load_backbone(folder, 2, auto_class=auto_class).model,
        load_skeleton(folder, 2, auto_class=auto_class),
    ):
        try:
            found.append(check_texts(Reading("it", model, tokenizer, splits, added, pad, answer_tokens)))
        except BadRequestError as error:
            found.append(str(error))
    assert found[0] == found[1]
    if isinstance(found[0], str):
        raise BadRequestError(found[0])
    return found[0]


def test_what_fits_is_silent(check):
    assert check(BERT(), [text(4), text(32), text(9)]) == ()


def test_a_pad_token_beyond_the_embedding_is_refused(check):
    tokenizer = words(pad_token="<pad>")  # added to the vocabulary as token 100
    message = r"pads with '<pad>', token 100, but the model has rows for tokens 0 to 99 only: resize"
    with pytest.raises(BadRequestError, match=message):
        check(LLAMA(), [text(4), text(5)], tokenizer=tokenizer)


def test_an_added_token_beyond_the_embedding_matters_where_a_text_holds_it(check):
    tokenizer = words()
    tokenizer.add_tokens(["<price>", "<name>"])
    (warning,) = check(LLAMA(vocab_size=101), [text(4), "w5 <price> w6"], tokenizer=tokenizer)
    assert "the tokenizer of model 'it' has 102 tokens and the model rows for 101" in warning
    with pytest.raises(BadRequestError, match=r"the train split holds '<name>', token 101.*first in '.*w5 <name>"):
        check(LLAMA(vocab_size=101), [text(4), "w5 <name> w6"], tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (BERT(), 32),
        (transformers.RobertaConfig(**(ENCODER | {"pad_token_id": 0})), 31),  # positions begin after the padding token
        (transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=4, n_positions=20, pad_token_id=0), 20),
        (transformers.OPTConfig(vocab_size=100, hidden_size=32, word_embed_proj_dim=32, ffn_dim=8, num_hidden_layers=1,
                                num_attention_heads=4, max_position_embeddings=20, pad_token_id=0), 20),
        (OTHERS["gptj"](), 32),
        (OTHERS["bart"](), 32),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)  # fmt: skip
def test_texts_longer_than_the_positions_are_refused_with_the_length_that_fits(check, config, most):
    with pytest.raises(BadRequestError, match=f"have up to {most + 1} tokens.*positions for {most} only: set training"):
        check(config, [text(4), text(most + 1)])
    assert check(config, [text(4), text(most + 1)], max_length=most) == ()


def test_padding_to_a_multiple_counts(check):
    with pytest.raises(BadRequestError, match="have up to 40 tokens, padding included"):
        check(BERT(), [text(4), text(31)], multiple=20)
    assert check(BERT(), [text(4), text(31)], multiple=16) == ()


def test_rotary_positions_end_nowhere_but_are_warned_of(check):
    (warning,) = check(LLAMA(max_position_embeddings=32), [text(4), text(50)])
    assert "up to 50 tokens, more than the 32 positions that model 'it' was made for" in warning


def test_token_types_that_the_model_lacks_are_refused(check):
    typed = words(model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    one_type = transformers.RobertaConfig(**ENCODER, type_vocab_size=1)
    with pytest.raises(BadRequestError, match=r"type 1, but the model has 1 types: set model_input_names"):
        check(one_type, [text(4)], [text(5)], tokenizer=typed)
    assert check(one_type, [text(4)], [text(5)]) == ()


def test_special_tokens_in_a_text_are_warned_of(check):
    (warning,) = check(BERT(), [text(4), "w5 [SEP] w6", "w7 [UNK] w8", "w5 [SEP] w6 [PAD]"])
    assert warning.startswith(
        "texts hold special tokens of the tokenizer ([PAD], [SEP]; 2 of train), which it reads as"
    )
    assert "'[CLS] w5 [SEP] w6 [SEP]'" in warning


def test_empty_texts_are_warned_of(check):
    assert check(BERT(), [text(5), text(6)]) == ()
    assert check(BERT(), [text(5), " ", ""]) == (
        "texts are empty, or nothing is left of them as tokens (2 of train): drop them if that is not meant",
    )


def test_words_of_another_script_are_warned_of(check):
    (warning,) = check(BERT(), ["фильм был хорош", "фильм был плох"])
    assert warning.startswith("100% of the words of the train split are unknown") and "[UNK]" in warning
    assert check(BERT(), [text(9), text(8) + " фильм"]) == ()


def test_special_tokens_in_every_text_are_named(check):
    (warning,) = check(BERT(), ["w5 [SEP] w6 [PAD]", "w7 [SEP] w8 [PAD]"])
    assert "([PAD], [SEP]; 2 of train)" in warning


def test_a_text_that_ends_twice_is_refused_where_the_model_reads_the_end(check):
    with pytest.raises(BadRequestError, match=r"same number of <eos> tokens.*texts without special tokens"):
        check(OTHERS["bart"](), [text(4), text(9), text(12), "w5 [SEP] w6 w7"])


def test_a_tokenizer_of_another_padding_token_is_warned_of(check):
    (warning,) = check(transformers.RobertaConfig(**(ENCODER | {"pad_token_id": 1})), [text(4), text(9)])
    assert "pads with token 0, but model 'it' takes token 1 for padding when it counts positions" in warning


def test_prompts_must_leave_positions_for_the_answer(tmp_path):
    config = transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=4, n_positions=20, pad_token_id=0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    split = prompted([list(range(4, 18)), [4, 5, 6]], [2, 1], np.array([0, 0]))
    check = partial(both, str(tmp_path), {"train": split}, load_tokenizer(str(tmp_path)), CAUSAL)
    assert check(answer_tokens=6) == ()
    with pytest.raises(BadRequestError, match=r"up to 21 tokens with 7 tokens of an answer.*positions for 20 only"):
        check(answer_tokens=7)


def test_a_template_with_special_tokens_is_no_text_with_special_tokens(tmp_path):
    transformers.AutoModelForCausalLM.from_config(LLAMA()).save_pretrained(tmp_path)
    words().save_pretrained(tmp_path)
    rows = [[2, 3, 5, 7], [2, 3, 8, 9, 10], [2, 3, 8, 3, 10]]
    check = partial(both, str(tmp_path), tokenizer=load_tokenizer(str(tmp_path)), auto_class=CAUSAL)
    assert check(splits={"train": prompted(rows[:2], [1, 1], np.zeros(2))}) == ()
    assert "([SEP]; 1 of train)" in check(splits={"train": prompted(rows, [1, 1, 1], np.zeros(3))})[0]


def test_the_check_leaves_weights_as_they_are(check, tmp_path):
    check(BERT(), [text(4), text(9)])
    backbone = load_backbone(str(tmp_path), 2)
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    split = encode_texts(pd.DataFrame({"text": [text(5)], "label": 0}), backbone.tokenizer, 32, np.int64)
    check_texts(Reading("it", backbone.model, backbone.tokenizer, {"train": split}, 2, dict))
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], value) and after[name].device.type == "cpu" for name, value in before.items())
