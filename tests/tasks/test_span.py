"""Windows over long contexts, and the search for the best span."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import RawTask, encode
from adapad_ray.tasks.squad_scores import exact_match
from adapad_ray.tasks.types.span import Span, SpanSource, best_spans

CONTEXT = " ".join(f"word{i}" for i in range(60))
"""Token i + 1 of it is its word i."""
SOURCE = SpanSource(type="span", train="-", stride=6, max_question=4)


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "is", "it", "said", *(f"word{i}" for i in range(60))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", model_max_length=64
    )


def rows(*answers, question="who is it"):
    table = [
        {
            "context": CONTEXT,
            "question": question,
            "answers": {"text": list(texts), "answer_start": [CONTEXT.index(text) for text in texts]},
        }
        for texts in answers
    ]
    return Span().select(pd.DataFrame(table), SOURCE, "train")


def data(tokenizer, frame, max_length=24):
    splits = dict.fromkeys(("train", "validation", "test"), frame)
    return encode(RawTask("t", (), "answer_f1", splits, "", "span", SOURCE), tokenizer, max_length=max_length)


def test_windows_cover_the_context_and_overlap_by_the_stride(tokenizer):
    split = data(tokenizer, rows(["word3"])).splits["train"]
    bodies = []
    for window in range(len(split)):
        part = slice(split.windows.offsets[window], split.windows.offsets[window + 1])
        assert part.stop - part.start <= 24
        begins, ends = split.begins[part], split.ends[part]
        assert begins[0] == -1 and begins[-1] == -1, "neither the first token nor the last is of the context"
        bodies.append([CONTEXT[b:e] for b, e in zip(begins, ends, strict=True) if b >= 0])
    assert bodies[0] + [word for body in bodies[1:] for word in body[6:]] == CONTEXT.split()
    assert all(before[-6:] == after[:6] for before, after in itertools.pairwise(bodies))


def test_labels_name_the_tokens_of_the_first_gold_answer_in_every_window_that_holds_it(tokenizer):
    split = data(tokenizer, rows(["word16 word17", "word0"])).splits["train"]
    held = 0
    for window, (start, end) in enumerate(split.windows.labels):
        tokens = split.windows.tokens[split.windows.offsets[window] :]
        begins = split.begins[split.windows.offsets[window] :]
        if start or end:
            held += 1
            assert tokenizer.decode(tokens[start : end + 1]) == "word16 word17"
            assert CONTEXT[begins[start] :].startswith("word16")
    assert held == 2, "the answer lies where two windows overlap"
    assert len(split) > 2


def test_long_questions_are_cut_and_unanswerable_ones_point_to_the_first_token(tokenizer):
    split = data(tokenizer, rows([], question="who is it " * 20)).splits["train"]
    first = tokenizer.convert_ids_to_tokens(split.windows.tokens[:7].tolist())
    assert first == ["[CLS]", "who", "is", "it", "who", "[SEP]", "word0"]
    assert not split.windows.labels.any()
    assert split.labels.tolist() == [0]


class Random:
    """Random logits for every window, and the model's inputs by which a test finds them again."""

    def __init__(self, seed, shift=0.0):
        self.draw, self.shift, self.seen = torch.Generator().manual_seed(seed), shift, {}

    def outputs(self, split):
        for indices in split.evaluation_batches(3):
            batch = split.batch(indices, 0)
            shape = batch["input_ids"].shape
            start, end = (torch.randn(shape, generator=self.draw) for _ in range(2))
            start[:, 0] += self.shift
            for row, window in enumerate(indices):
                self.seen[window] = start[row].numpy(), end[row].numpy()
            yield indices, batch, SimpleNamespace(start_logits=start, end_logits=end)


def test_the_best_span_is_that_of_an_exhaustive_search(tokenizer):
    split = data(tokenizer, rows(["word3"], [], ["word7"])).splits["test"]
    model = Random(0)
    found = best_spans(split, model, n_best=24, max_answer=5)
    for item in range(3):
        best, null = (-np.inf, ""), np.inf
        for window in np.flatnonzero(split.items == item):
            start, end = model.seen[window]
            null = min(null, start[0] + end[0])
            base = split.windows.offsets[window]
            for i in range(split.lengths[window]):
                for j in range(i, min(i + 5, split.lengths[window])):
                    if split.begins[base + i] >= 0 and split.begins[base + j] >= 0:
                        text = CONTEXT[split.begins[base + i] : split.ends[base + j]]
                        best = max(best, (start[i] + end[j], text))
        assert found.texts[item] == best[1]
        assert found.no_answer[item] == pytest.approx(null - best[0], abs=1e-5)


def test_the_threshold_of_validation_holds_for_the_test(tokenizer):
    loaded = data(tokenizer, rows(["word3"], [], ["word7"], []))
    assert loaded.settings["abstains"]
    model = Random(1)
    found = Span().evaluate(loaded, model, ["validation", "test"])
    threshold = found["validation"].metrics.get("no_answer_threshold", -np.inf)
    for name, split in loaded.splits.items():
        if name == "train":
            continue
        predictions = found[name].predictions
        answered = predictions[:, 2] <= np.float32(threshold)
        assert [bool(text) for text in found[name].answers] == answered.tolist()
        gold = [exact_match(text, answer) for text, answer in zip(found[name].answers, split.answers, strict=True)]
        assert predictions[:, 0].tolist() == gold
        assert found[name].metrics["exact_match"] == np.mean(gold)
    assert found["validation"].metrics["answer_f1"] >= 0.5, "saying nothing at all is right for half of them"


def test_without_unanswerable_questions_the_model_always_answers(tokenizer):
    loaded = data(tokenizer, rows(["word3"], ["word7"]))
    found = Span().evaluate(loaded, Random(2, shift=100.0), ["validation"])["validation"]
    assert all(found.answers)
    assert set(found.metrics) == {"exact_match", "answer_f1", "has_answer_exact_match", "has_answer_f1", "best_span_f1"}


def test_logits_that_are_not_finite_are_no_answer(tokenizer):
    with pytest.raises(FloatingPointError, match="are not finite"):
        Span().evaluate(data(tokenizer, rows(["word3"])), Random(0, shift=np.nan), ["validation"])


def test_the_digest_follows_what_is_asked_and_how(tokenizer):
    frame = rows(["word3"], [])
    digest = data(tokenizer, frame).digest
    assert data(tokenizer, frame).digest == digest
    assert data(tokenizer, rows(["word4"], [])).digest != digest
    assert data(tokenizer, frame, max_length=30).digest != digest


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["word3"], "answer_start": [0]}, "answer_start of 1 row of the train data does not point to"),
        ("word3", r"holds 'word3': answers are \{text"),
    ],
)
def test_bad_answers(answers, message):
    table = pd.DataFrame([{"context": CONTEXT, "question": "who", "answers": answers}])
    with pytest.raises(BadRequestError, match=message):
        Span().select(table, SOURCE, "train")


def test_a_window_must_hold_a_question_and_more_than_the_stride(tokenizer):
    with pytest.raises(BadRequestError, match="max_length is 13: this tokenizer takes 14 to 64 tokens"):
        data(tokenizer, rows(["word3"]), max_length=13)


def test_answerable_questions_alone_make_squad_1(tokenizer):
    table = pd.DataFrame(
        [
            {"context": CONTEXT, "question": "who", "answers": {"text": [], "answer_start": []}},
            {"context": CONTEXT, "question": "who", "answers": {"text": ["word0"], "answer_start": [0]}},
        ]
    )
    source = SOURCE.model_copy(update={"answerable_only": True})
    assert len(Span().select(table, source, "train")) == 1
