"""A plan and a launch check what the model reads alike, before anything starts."""

import json

import pytest
import transformers

from adapad_ray.errors import BadRequestError
from adapad_ray.sweep.inputs import load_inputs, sketch_inputs
from adapad_ray.sweep.spec_file import parse_spec
from tests.architectures import DECODER, ENCODER
from tests.models.tiny_configs import words


@pytest.fixture
def both(tmp_path):
    """The warnings of a plan about a model and rows, which are those of a launch; or the reason of both."""

    def check(model, rows, task=None, tokenizer=None, **training):
        model.save_pretrained(tmp_path / "model")
        (tokenizer or words()).save_pretrained(tmp_path / "model")
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        spec = parse_spec(
            {
                "model": str(tmp_path / "model"),
                "task": {"train": str(data), "validation": str(data), "test": str(data)} | (task or {}),
                "methods": {"lora": {}},
                "budgets": [1000],
                "training": {"max_length": 64} | training,
            }
        )
        outcomes = []
        for inputs in (lambda: sketch_inputs(spec).warnings, lambda: load_inputs(spec).inputs.warnings):
            try:
                outcomes.append(inputs())
            except BadRequestError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]
        if isinstance(outcomes[0], str):
            raise BadRequestError(outcomes[0])
        shared, rest = outcomes[0][:2], outcomes[0][2:]
        assert all("are all in the training data too" in warning for warning in shared)  # the splits are one file
        return rest

    return check


def rows(*texts):
    return [{"text": text, "label": i % 2} for i, text in enumerate((*texts, "w4 w5", "w6 w7 w8"))]


def test_texts_pairs_and_padding_are_checked(both):
    bert = transformers.BertModel(transformers.BertConfig(**ENCODER))
    assert both(bert, rows("w9 " * 30)) == ()
    with pytest.raises(BadRequestError, match=r"have up to 42 tokens, padding included, but .* positions for 32 only"):
        both(bert, rows("w9 " * 40))
    with pytest.raises(BadRequestError, match=r"have up to 64 tokens, padding included"):
        both(bert, rows("w9 " * 30), pad_to_multiple_of=64)
    (warning,) = both(bert, rows("w9 [SEP] w4"))
    assert "special tokens of the tokenizer ([SEP]; 1 of train, 1 of validation, 1 of test)" in warning
    pairs = [row | {"other": "w30 w31"} for row in rows("w9")]
    assert both(bert, pairs, {"text_pair": "other"}) == ()


def test_a_pad_token_beyond_the_embedding_is_refused(both):
    llama = transformers.LlamaModel(transformers.LlamaConfig(**DECODER))
    with pytest.raises(BadRequestError, match=r"pads with '<pad>', token 100"):
        both(llama, rows("w9"), tokenizer=words(pad_token="<pad>"))


def test_windows_and_prompts_are_checked(both):
    bert = transformers.BertForQuestionAnswering(transformers.BertConfig(**ENCODER))
    span = {"type": "span", "stride": 4, "max_question": 4}
    question = {"question": "w4 w5", "context": "w9 " * 50, "answers": {"text": ["w9"], "answer_start": [0]}}
    with pytest.raises(BadRequestError, match=r"have up to 55 tokens.*positions for 32 only"):
        both(bert, [question] * 3, span, max_length=60)
    assert both(bert, [question] * 3, span, max_length=32) == ()
    config = transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=1, n_head=4, n_positions=20, pad_token_id=0)
    gpt2 = transformers.GPT2LMHeadModel(config)
    generation = {"type": "generation", "prompt": "{q}", "answer": "a", "max_new_tokens": 12}
    with pytest.raises(BadRequestError, match=r"up to 22 tokens with .* of an answer"):
        both(gpt2, [{"q": "w4 w5 w6 w7 w8 w9 w10 w11", "a": "w12"}] * 3, generation)
    assert both(gpt2, [{"q": "w4 w5 w6 w7", "a": "w12"}] * 3, generation) == ()


def test_only_prompts_can_share_rows(both):
    bert = transformers.BertModel(transformers.BertConfig(**ENCODER))
    with pytest.raises(BadRequestError, match=r"in tasks of type .*generation.*: this one is of type classification"):
        both(bert, rows("w9"), pack_sequences=True)


def test_a_plan_and_a_launch_say_which_experts_all_linear_leaves_out(both):
    sizes = DECODER | {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4}
    model = transformers.MixtralModel(transformers.MixtralConfig(**sizes))
    (warning,) = both(model, rows())
    assert warning.startswith("target_modules all-linear leaves out mlp.gate.weight, mlp.experts.gate_up_proj, ")
    parameters = sum(p.numel() for p in model.parameters()) + 2 * 32  # and those of the classifier
    assert f"of 2 layers, {2 * (4 * 3 * 32 * 48 + 4 * 32) / parameters:.1%} of the model's parameters" in warning
