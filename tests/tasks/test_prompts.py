"""Causal language models: prompts, choices, and answers in the model's own words."""

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import TYPES, RawTask, encode, parse_source
from adapad_ray.tasks.losses import IGNORED, answer_cross_entropy
from adapad_ray.training.cell.evaluation import ModelPasses

WORDS = ["<pad>", "<unk>", "<s>", "</s>", "is", "it", "good", "bad", "very", "not", "film", "plot", "?", "yes", "no"]


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=64
    )


@pytest.fixture(scope="module", params=["llama", "opt"])
def model(request):
    """Rotary positions, and learnt ones: with both, padding on the left must change nothing."""
    sizes = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if request.param == "llama":
            config = transformers.LlamaConfig(**sizes, intermediate_size=32, num_key_value_heads=2, pad_token_id=0)
        else:
            config = transformers.OPTConfig(**sizes, ffn_dim=32, word_embed_proj_dim=16, max_position_embeddings=64)
        config.initializer_range = 0.5
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def task(source, table, tokenizer, max_length=16):
    source = parse_source({"train": "-", **source})
    kind = TYPES[source.type]
    frames = {split: kind.select(pd.DataFrame(table), source, split) for split in ("train", "validation", "test")}
    frames, names = kind.number_labels(frames, source, "t")
    raw = RawTask("t", names, source.metric, frames, "", source.type, source)
    return encode(raw, tokenizer, max_length=max_length)


CHOICE = {"type": "choice", "prompt": "is it {text} ?", "words": {0: "no", 1: "very good"}}
REVIEWS = [{"text": "good film", "label": 1}, {"text": "bad", "label": 0}, {"text": "not good plot", "label": 0}]
GENERATION = {"type": "generation", "prompt": "is it {text} ?", "max_new_tokens": 4}
ANSWERS = [{"text": "good film", "answer": "yes"}, {"text": "bad", "answer": "no not good"}]


def log_probability(model, tokens, answered):
    """Of the last `answered` tokens of one sequence, without padding or any shortcut."""
    logits = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    return [float(logits[i - 1, tokens[i]]) for i in range(len(tokens) - answered, len(tokens))]


def test_training_batches_end_together_and_learn_the_answer_alone(tokenizer):
    split = task(CHOICE, REVIEWS, tokenizer).splits["train"]
    batch = split.batch(np.arange(3), tokenizer.pad_token_id)
    for row, label in zip(range(3), split.labels, strict=True):
        tokens = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
        words = tokenizer.convert_ids_to_tokens(tokens)
        assert words[:3] == ["<s>", "is", "it"]
        answer = ["very", "good"] if label else ["no"]
        assert words[-len(answer) :] == answer
        learnt = batch["labels"][row]
        assert tokenizer.convert_ids_to_tokens(learnt[learnt != IGNORED].tolist()) == answer
    assert (batch["attention_mask"][:, -1] == 1).all()


def test_the_loss_is_the_mean_over_the_tokens_of_each_answer(model, tokenizer):
    split = task(CHOICE, REVIEWS, tokenizer).splits["train"]
    batch = split.batch(np.arange(3), tokenizer.pad_token_id)
    labels = batch.pop("labels")
    with torch.inference_mode():
        losses = answer_cross_entropy(model(**batch), labels)
        for row in range(3):
            tokens = split.tokens[split.offsets[row] : split.offsets[row + 1]].tolist()
            expected = -np.mean(log_probability(model, tokens, int(split.answered[row])))
            assert losses[row].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("score", ["sum", "mean"])
def test_choices_are_scored_by_their_log_probabilities(model, tokenizer, score):
    data = task(CHOICE | {"score": score}, REVIEWS, tokenizer)
    found = TYPES["choice"].evaluate(data, ModelPasses(model, 2, 0), ["validation"])["validation"]
    split = data.splits["validation"]
    assert found.predictions.shape == (3, 2)
    with torch.inference_mode():
        for item in range(3):
            for choice in range(2):
                at = 2 * item + choice
                tokens = split.tokens[split.offsets[at] : split.offsets[at + 1]].tolist()
                each = log_probability(model, tokens, int(split.answered[at]))
                expected = sum(each) if score == "sum" else np.mean(each)
                assert found.predictions[item, choice] == pytest.approx(expected, abs=1e-4)
    accuracy = (found.predictions.argmax(1) == split.labels).mean()
    assert found.metrics == {"accuracy": pytest.approx(accuracy)}


def test_generation_is_greedy_and_padding_changes_nothing(model, tokenizer):
    data = task(GENERATION, ANSWERS, tokenizer)
    split = data.splits["test"]
    together = ModelPasses(model, 2, 0, tokenizer=tokenizer).generate(split, 4)
    with torch.inference_mode():
        for item, text in enumerate(together):
            tokens = split.tokens[split.offsets[item] : split.offsets[item + 1] - split.answered[item]].tolist()
            said = []
            while len(said) < 4 and (not said or said[-1] != tokenizer.eos_token_id):
                said.append(int(model(torch.tensor([tokens + said])).logits[0, -1].argmax()))
            assert text == tokenizer.decode(said, skip_special_tokens=True)


def test_answers_end_with_the_end_of_the_text_and_are_cut_to_what_may_be_generated(tokenizer):
    split = task(GENERATION | {"max_new_tokens": 3}, ANSWERS, tokenizer).splits["train"]
    ends = [tokenizer.convert_ids_to_tokens(split.tokens[end - 3 : end].tolist()) for end in split.offsets[1:]]
    assert sorted(ends) == [["?", "yes", "</s>"], ["no", "not", "</s>"]]


class Says:
    """A model that says the same to everything."""

    def __init__(self, *texts):
        self.texts = texts

    def generate(self, split, max_new_tokens):
        return list(self.texts)


def test_answers_are_compared_as_squad_does_it_and_kept(tokenizer):
    table = [{"text": "good", "answer": {"text": ["the film", "plot"]}}, {"text": "bad", "answer": {"text": []}}]
    data = task(GENERATION | {"stop": "\n"}, table, tokenizer)
    order = [gold[0] for gold in data.splits["test"].gold]
    answers = {"the film": " Film.\nis it", "unanswerable": "unanswerable film"}
    found = TYPES["generation"].evaluate(data, Says(*(answers[gold] for gold in order)), ["test"])["test"]
    assert found.metrics == {"exact_match": 0.5, "answer_f1": pytest.approx((1 + 2 / 3) / 2)}
    assert sorted(found.answers) == ["Film.", "unanswerable film"]


def test_numbers_are_compared_by_the_last_one(tokenizer):
    table = [{"text": "good", "answer": "3 + 4 = 7 #### 7"}, {"text": "bad", "answer": "#### 1,000"}]
    data = task(GENERATION | {"match": "number"}, table, tokenizer)
    right = {"7": "is 7.0", "0": "1000 or 10"}
    texts = [right[gold[0][-1]] for gold in data.splits["test"].gold]
    found = TYPES["generation"].evaluate(data, Says(*texts), ["test"])["test"]
    assert found.metrics == {"exact_match": 0.5, "answer_f1": 0.5}


def test_long_prompts_lose_their_beginning_but_not_their_opening_token(tokenizer):
    table = [{"text": "good film " * 10, "label": 1}]
    split = task(CHOICE, table, tokenizer, max_length=8).splits["train"]
    words = tokenizer.convert_ids_to_tokens(split.tokens.tolist())
    assert words[0] == "<s>" and words[-3:] == ["?", "very", "good"] and len(words) == 8


def test_nothing_is_lost_of_short_prompts(tokenizer):
    data = task(CHOICE, REVIEWS, tokenizer)
    lengths = [1 + 2 + len(row["text"].split()) + 1 for row in REVIEWS]
    split = data.splits["validation"]
    assert sorted((split.lengths - split.answered).tolist()) == sorted(lengths * 2)
    assert sum(split.answered) == 3 * (1 + 2)


def test_truth_values_are_labels(tokenizer):
    table = [{"text": "good", "label": True}, {"text": "bad", "label": False}]
    for words in ({"true": "yes", "false": "no"}, {True: "yes", False: "no"}):
        data = task(CHOICE | {"words": words}, table, tokenizer)
        assert data.class_names == ("false", "true")
        assert sorted(data.splits["train"].labels) == [0, 1]


@pytest.mark.parametrize(
    ("source", "table", "message"),
    [
        (CHOICE | {"prompt": "is it {body}?"}, REVIEWS, "no column 'body' for 'prompt {body}'"),
        (CHOICE | {"prompt": "is it?"}, REVIEWS, "names no column"),
        (CHOICE | {"prompt": "is it {text?"}, REVIEWS, "is no template"),
        (CHOICE, [{"text": "good", "label": 2}], r"holds labels without a word \(2\): task.words has 0, 1"),
        (GENERATION, [{"text": "good", "answer": " "}], "holds an empty answer"),
        (CHOICE | {"max_length": 3}, REVIEWS, "task.max_length is unknown"),
        ({"type": "choice", "prompt": "{text}"}, REVIEWS, "task.words is missing: a choice task needs it"),
        ({"type": "chooice"}, REVIEWS, "task.type 'chooice' is unknown: use one of classification, regression, span"),
    ],
)
def test_bad_requests(tokenizer, source, table, message):
    with pytest.raises(BadRequestError, match=message):
        task(source, table, tokenizer)


def test_an_answer_needs_room_for_a_prompt(tokenizer):
    with pytest.raises(BadRequestError, match="answers of 4 tokens take 6 to 64 tokens"):
        task(GENERATION, ANSWERS, tokenizer, max_length=5)
