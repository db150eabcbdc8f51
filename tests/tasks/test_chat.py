"""Chat: which tokens are learnt, what is read, what is cut, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import TYPES, encode, load_task, parse_source
from adapad_ray.tasks.data.tables import Tables
from adapad_ray.tasks.losses import IGNORED
from adapad_ray.training.cell.evaluation import ModelPasses

TEMPLATES = Path(__file__).parent / "chat_templates"
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>"]
SPECIAL += ["<|eot_id|>", "<start_of_turn>", "<end_of_turn>"]
WORDS = ["\n", " ", ":", "system", "user", "assistant", "model", "User", "Assistant", "be", "kind", "hi", "hello"]
WORDS += ["how", "are", "you", "well", "bye", "a", "b", "adapad", "<unk>"]
VOCABULARY = len(SPECIAL) + len(WORDS)


def make_tokenizer(template=None):
    """Words, spaces and line breaks are tokens of their own."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|\s|[^\w\s]"), "isolated")
    inner.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=256,
    )
    made.chat_template = None if template is None else (TEMPLATES / f"{template}.jinja").read_text().rstrip("\n")
    return made


@pytest.fixture(scope="module", params=["chatml", "llama3", "gemma"])
def written(request):
    """A tokenizer with each of the templates, and its name."""
    return request.param, make_tokenizer(request.param)


@pytest.fixture(scope="module")
def chatml():
    return make_tokenizer("chatml")


def turns(*contents, system=None):
    """Messages of user and assistant in turn."""
    said = [{"role": role, "content": c} for role, c in zip(["user", "assistant"] * 9, contents, strict=False)]
    return ([{"role": "system", "content": system}] if system else []) + said


def read(table, **source):
    frame = pd.DataFrame(table)
    parsed = parse_source({"type": "chat", "train": "-", **source})
    return TYPES["chat"].read_tables(parsed, Tables("t", dict.fromkeys(("train", "validation", "test"), frame), "d"))


def task(tokenizer, table, max_length=128, **source):
    return encode(read(table, **source), tokenizer, max_length=max_length)


def tokens_of(tokenizer, split, row=0):
    """Tokens of a conversation, those that are learnt in bold."""
    here = slice(split.offsets[row], split.offsets[row + 1])
    texts = tokenizer.convert_ids_to_tokens(split.tokens[here].tolist())
    return [f"*{text}*" if learnt else text for text, learnt in zip(texts, split.learnt[here], strict=True)]


CHATML = [
    *["<|im_start|>", "system", "\n", "be", " ", "kind", "<|im_end|>", "\n"],
    *["<|im_start|>", "user", "\n", "hi", "<|im_end|>", "\n"],
    *["<|im_start|>", "assistant", "\n", "*hello*", "* *", "*you*", "*<|im_end|>*", "\n"],
    *["<|im_start|>", "user", "\n", "how", " ", "are", " ", "you", "<|im_end|>", "\n"],
    *["<|im_start|>", "assistant", "\n", "*well*", "*<|im_end|>*"],
]
LLAMA3 = [
    *["<s>", "<|start_header_id|>", "system", "<|end_header_id|>", "\n", "\n", "be", " ", "kind", "<|eot_id|>"],
    *["<|start_header_id|>", "user", "<|end_header_id|>", "\n", "\n", "hi", "<|eot_id|>"],
    *["<|start_header_id|>", "assistant", "<|end_header_id|>", "\n", "\n", "*hello*", "* *", "*you*", "*<|eot_id|>*"],
    *["<|start_header_id|>", "user", "<|end_header_id|>", "\n", "\n", "how", " ", "are", " ", "you", "<|eot_id|>"],
    *["<|start_header_id|>", "assistant", "<|end_header_id|>", "\n", "\n", "*well*", "*<|eot_id|>*"],
]
GEMMA = [
    *["<s>", "<start_of_turn>", "user", "\n", "be", " ", "kind", "\n", "\n", "hi", "<end_of_turn>", "\n"],
    *["<start_of_turn>", "model", "\n", "*hello*", "* *", "*you*", "*<end_of_turn>*", "\n"],
    *["<start_of_turn>", "user", "\n", "how", " ", "are", " ", "you", "<end_of_turn>", "\n"],
    *["<start_of_turn>", "model", "\n", "*well*", "*<end_of_turn>*"],
]
WRITTEN = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA}
ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}
CONVERSATION = turns("hi", "hello you", "how are you", "well", system="be kind")


def test_what_the_assistant_says_and_what_ends_it_are_learnt(written):
    name, tokenizer = written
    split = task(tokenizer, {"messages": [CONVERSATION]}).splits["train"]
    assert tokens_of(tokenizer, split) == WRITTEN[name]
    assert tokenizer.convert_ids_to_tokens(split.end) == ENDS[name]


def test_a_template_that_marks_answers_is_taken_at_its_word(chatml):
    marking = chatml.chat_template.replace(
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}",
        "{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
        "{{ message['content'] }}{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}"
        "{{ '<|im_end|>' + '\n' }}",
    )
    assert "generation" in marking
    tokenizer = make_tokenizer()
    tokenizer.chat_template = marking
    split = task(tokenizer, {"messages": [CONVERSATION]}).splits["train"]
    assert tokens_of(tokenizer, split) == [t.replace("*<|im_end|>*", "<|im_end|>") for t in CHATML[:-1]]
    assert tokenizer.convert_ids_to_tokens(split.end) == "<|im_end|>"


def test_generation_reads_what_a_chat_server_would(written):
    _, tokenizer = written
    split = task(tokenizer, {"messages": [CONVERSATION]}).splits["test"]
    asked = CONVERSATION[:-1]
    if written[0] == "gemma":
        asked = [{"role": "user", "content": "be kind\n\nhi"}, *asked[2:]]
    expected = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    batch = split.prompts(np.arange(1), tokenizer.pad_token_id)
    assert batch["input_ids"][0].tolist() == expected


def test_batches_learn_the_marked_tokens_and_no_others(written):
    _, tokenizer = written
    table = {"messages": [CONVERSATION, turns("hi", "bye"), turns("hi", "hello", "how", "well", "bye", "bye")]}
    split = task(tokenizer, table).splits["train"]
    batch = split.batch(np.arange(3), tokenizer.pad_token_id)
    kept = batch["logits_to_keep"] + batch["input_ids"].shape[1]
    for row in range(3):
        learnt = batch["labels"][row] != IGNORED
        here = slice(split.offsets[row], split.offsets[row + 1])
        assert batch["labels"][row][learnt].tolist() == split.tokens[here][split.learnt[here]].tolist()
        # The logit before a token predicts it.
        assert batch["input_ids"][row][kept[learnt] + 1].tolist() == batch["labels"][row][learnt].tolist()


SHAPES = {
    "messages": {"messages": [turns("hi", "hello")]},
    "from and value": {"conversations": [[{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]]},
    "prompt": {"prompt": ["hi"], "completion": ["hello"]},
    "prompts of messages": {"prompt": [turns("hi")], "completion": [[{"role": "assistant", "content": "hello"}]]},
    "instruction": {"instruction": ["hi"], "input": [""], "output": ["hello"]},
    "instruction without input": {"instruction": ["hi"], "input": [None], "output": ["hello"]},
    "response": {"instruction": ["hi"], "context": [""], "response": ["hello"]},
    "parts": {"messages": [[{"role": "user", "content": [{"type": "text", "text": "hi"}]}, turns("", "hello")[1]]]},
    "arrays": {"messages": [np.array([dict(t, tool_calls=None) for t in turns("hi", "hello")])]},
    "tools": {
        "messages": [
            [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]},
                {"role": "tool", "content": "42"},
                {"role": "assistant", "content": "hello"},
            ]
        ]
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_common_shapes_are_found_by_their_columns(chatml, shape):
    split = task(chatml, SHAPES[shape]).splits["train"]
    assert "".join(tokens_of(chatml, split)) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n*hello**<|im_end|>*"
    )


def test_columns_can_be_named_and_the_input_follows_a_blank_line(chatml):
    table = {"ask": ["how"], "about": ["you"], "answers": [{"text": ["well", "bye"]}], "messages": ["never read"]}
    data = task(chatml, table, instruction="ask", input="about", output="answers", system="be kind")
    text = "".join(tokens_of(chatml, data.splits["test"]))
    assert "system\nbe kind<|im_end|>" in text and "user\nhow\n\nyou<|im_end|>" in text and "*well*" in text
    assert data.splits["test"].gold == (("well", "bye"),)


def test_rows_of_a_file_are_found_by_its_columns(tmp_path, chatml):
    file = tmp_path / "rows.jsonl"
    rows = [
        {"id": i, "conversations": [{"from": "human", "value": f"hi {i}"}, {"from": "gpt", "value": "bye"}]}
        for i in range(40)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    raw = load_task({"type": "chat", "train": str(file)})
    assert raw.source.messages == "conversations"
    assert sum(len(frame) for frame in raw.splits.values()) == 40
    with pytest.raises(BadRequestError, match="no column 'messages' for 'messages'"):
        load_task({"type": "chat", "train": str(file), "messages": "messages"})


def test_tools_system_prompts_special_tokens_and_dates_are_warned_about():
    gemma = make_tokenizer("gemma")
    gemma.chat_template += "{% set today = strftime_now('%d') %}"
    table = {"messages": [turns("hi <end_of_turn>", "bye", system="be kind"), SHAPES["tools"]["messages"][0]]}
    warnings = " | ".join(task(gemma, table).warnings)
    assert "train data: 1 conversation with tools: their calls and answers are left out" in warnings
    assert "takes no system prompt: it is put before the first user's turn (1 of train" in warnings
    assert "messages hold special tokens of the chat template (1 of train" in warnings
    assert "writes today's date" in warnings


def test_long_conversations_lose_their_beginning_and_then_the_end_of_the_answer(chatml):
    table = {"messages": [turns("hi " * 30, "hello"), turns("hi", "hello " * 30), turns("hi", "bye")]}
    data = task(chatml, table, max_length=24, max_new_tokens=4)
    split = data.splits["train"]
    texts = sorted(" ".join(tokens_of(chatml, split, row)) for row in range(3))
    assert split.cut == 2 and sorted(split.lengths.tolist()) == [11, 24, 24]
    assert any(text.endswith("<|im_start|> assistant \n *hello* *<|im_end|>*") for text in texts)
    assert any(
        text.startswith("<|im_start|> user \n hi <|im_end|> \n") and "*<|im_end|>*" not in text for text in texts
    )
    assert data.warnings[-1].startswith("conversations are longer than max_length 24 (2 of train, 2 of validation")
    assert data.splits["test"].prompt_lengths.max() == 24 - 4


def test_a_cut_keeps_the_opening_token_and_learns_nothing_without_a_beginning():
    tokenizer = make_tokenizer("llama3")
    split = task(tokenizer, {"messages": [turns("hi", "bye " * 40, "how", "well")]}, max_length=40, max_new_tokens=4)
    (text,) = {" ".join(tokens_of(tokenizer, s)) for s in split.splits.values()}
    assert text.startswith("<s> *bye*") or text.startswith("<s> * *")


def test_a_model_without_a_template_takes_the_plain_one():
    tokenizer = make_tokenizer()
    with pytest.raises(BadRequestError, match="no chat template: set task"):
        task(tokenizer, {"messages": [CONVERSATION]})
    data = task(tokenizer, {"messages": [turns("hi", "hello")]}, chat_template="plain")
    assert "".join(tokens_of(tokenizer, data.splits["train"])) == "User: hi\nAssistant:* **hello**</s>*"
    assert "</s>" in data.settings["chat_template"] or "eos_token" in data.settings["chat_template"]


def test_conversations_can_be_planned_without_the_model_s_tokenizer(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    reader, own = TYPES["chat"].planning_reader("HuggingFaceTB/SmolLM2-135M-Instruct")
    split = task(reader, {"messages": [turns("hi you", "hello")]}).splits["train"]
    assert not own and split.lengths.tolist() == [len(["User", ":", "hi", "you", "Assistant", ":", "hello", "[EOS]"])]
    assert split.learnt_tokens.tolist() == [2]


def test_a_template_comes_from_a_file(tmp_path, chatml):
    file = tmp_path / "mine.jinja"
    file.write_text((TEMPLATES / "gemma.jinja").read_text().rstrip("\n"))
    split = task(chatml, {"messages": [CONVERSATION]}, chat_template=str(file)).splits["train"]
    assert tokens_of(chatml, split) == GEMMA
    source = parse_source({"type": "chat", "train": "a.jsonl", "chat_template": "mine.jinja"}).inside(str(tmp_path))
    assert [(f.key, f.path) for f in source.files()][-1] == ("task.chat_template", str(file))


@pytest.mark.parametrize(
    ("table", "source", "message"),
    [
        ({"messages": ["hi"]}, {}, "holds hi in row 1: a conversation is a list of messages with role and content"),
        ({"messages": [[{"content": "hi"}]]}, {}, "a message without a role"),
        ({"messages": [[{"role": "narrator", "content": "hi"}]]}, {}, "the role 'narrator' in row 1: use system, user"),
        ({"messages": [turns("hi", " ")]}, {}, "an empty assistant's turn in row 1: drop"),
        ({"messages": [turns("hi")]}, {}, "a conversation without an assistant's turn in row 1"),
        ({"messages": [turns("hi", "bye", "how")]}, {}, "ends with the user's turn in row 1: end with the assistant"),
        ({"messages": [turns("hi", "bye")[1:]]}, {}, "begins with the assistant's turn"),
        ({"messages": [[]]}, {}, "without an assistant's turn"),
        (
            {"messages": [[{"role": "user", "content": [{"type": "image", "image": "x"}]}]]},
            {},
            "a part of type 'image' in row 1: chat tasks read texts only",
        ),
        ({"messages": [[{"role": "user", "content": {"a": 1}}]]}, {}, "a content that is no text"),
        ({"prompt": ["hi"], "completion": [" "]}, {}, "column 'completion' of the train data holds an empty answer"),
        ({"prompt": [" "], "completion": ["hi"]}, {}, "column 'prompt' of the train data holds an empty text"),
        ({"prompt": ["hi"]}, {}, "no column 'completion' for 'completion'"),
        ({"review": ["hi"], "stars": ["5"]}, {}, "the columns review, stars, and none of the usual ones"),
        ({"messages": [CONVERSATION]}, {"chat_template": "absent.jinja"}, "'absent.jinja' cannot be read"),
        ({"messages": [CONVERSATION]}, {"messages": "a", "prompt": "b"}, "task.messages and task.prompt are of diff"),
        ({"messages": [CONVERSATION]}, {"metric": "accuracy"}, "use one of exact_match, answer_f1, neg_log_loss"),
    ],
)
def test_bad_rows_and_requests_are_refused_before_anything_starts(chatml, table, source, message):
    with pytest.raises(BadRequestError, match=message):
        task(chatml, table, **source)


def with_template(text):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = text
    return tokenizer


SIMPLE = "{% for m in messages %}{{ m['role'] + ':' + m['content'] + eos_token }}{% endfor %}"
BAD_TEMPLATES = {
    "{% for m in": (turns("hi", "bye"), "the chat template cannot be used"),
    "{{ messages[0]['content'] }}": (turns("hi", "bye"), "leaves out what the assistant says"),
    SIMPLE.replace(" + eos_token", ""): (turns("hi", "bye"), "ends an answer with no special token"),
    "{% set n = messages | length %}{% for m in messages %}{{ m['content'] if loop.last or n < 4 else 'a' }}"
    "{{ eos_token }}{% endfor %}": (
        turns("hi", "bye", "how", "well"),
        "column 'messages' of the train data holds a conversation that the chat template does not write turn by turn "
        "in row 1: which tokens are the assistant's cannot be told",
    ),
    SIMPLE + "{% if false %}{% generation %}{% endgeneration %}{% endif %}": (
        turns("hi", "bye"),
        "a conversation of whose answers the chat template marks, or leaves, nothing in row 1",
    ),
    (TEMPLATES / "gemma.jinja").read_text(): (
        [*turns("hi", "bye"), {"role": "assistant", "content": "well"}],
        "a conversation that the chat template refuses .Conversation roles must alternate.* in row 1",
    ),
}


@pytest.mark.parametrize("template", BAD_TEMPLATES, ids=range(len(BAD_TEMPLATES)))
def test_templates_that_do_not_say_what_the_assistant_says_are_refused(template):
    conversation, message = BAD_TEMPLATES[template]
    with pytest.raises(BadRequestError, match=message):
        task(with_template(template), {"messages": [conversation]})


def test_a_template_may_close_the_whole_conversation():
    """Phi-3's ends one that is not to be continued with the end-of-text token."""
    tokenizer = with_template(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ' ' + m['content'] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant ' }}{% else %}{{ eos_token }}{% endif %}"
    )
    split = task(tokenizer, {"messages": [turns("hi", "bye", "how", "well")]}).splits["train"]
    assert "".join(tokens_of(tokenizer, split)) == (
        "<|im_start|>user hi<|im_end|><|im_start|>assistant *bye**<|im_end|>*"
        "<|im_start|>user how<|im_end|><|im_start|>assistant *well**<|im_end|>*"
    )


def test_a_template_that_always_asks_for_another_answer_does_not_teach_the_question():
    """Llama 3's first template ignored `add_generation_prompt`."""
    tokenizer = make_tokenizer("llama3")
    tokenizer.chat_template = tokenizer.chat_template.replace("{% if add_generation_prompt %}", "{% if true %}")
    split = task(tokenizer, {"messages": [turns("hi", "bye")]}).splits["train"]
    assert tokens_of(tokenizer, split)[-2:] == ["*bye*", "*<|eot_id|>*"]


@pytest.fixture(scope="module")
def model():
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(**sizes, intermediate_size=32, pad_token_id=0, initializer_range=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


def test_loss_and_perplexity_are_means_over_the_tokens_of_all_answers(chatml, model):
    table = {"messages": [CONVERSATION, turns("hi", "bye"), turns("how", "hello you are well")]}
    data = task(chatml, table)
    split = data.splits["test"]
    found = TYPES["chat"].evaluate(data, ModelPasses(model, 2, 0, tokenizer=chatml), ["test"])["test"]
    losses = []
    for row in range(3):
        here = slice(split.offsets[row], split.offsets[row + 1])
        tokens = torch.tensor(split.tokens[here].astype(np.int64))
        with torch.inference_mode():
            log_p = model(tokens[None]).logits[0, :-1].double().log_softmax(-1)
        each = -log_p[torch.arange(len(tokens) - 1), tokens[1:]]
        losses += each[torch.tensor(split.learnt[here][1:])].tolist()
    assert found.metrics == {
        "neg_log_loss": pytest.approx(-np.mean(losses), abs=1e-5),
        "perplexity": pytest.approx(np.exp(np.mean(losses)), rel=1e-5),
    }
    assert found.loss == pytest.approx(np.mean(losses), abs=1e-5)
    assert not found.answers


class Says:
    """A model that says the same to everything."""

    def __init__(self, texts):
        self.texts = texts

    def losses(self, split, loss):
        return np.ones(len(split))

    def generate(self, split, max_new_tokens, ends):
        assert max_new_tokens == 8 and ends == (split.end,)
        return [self.texts[gold[0]] for gold in split.gold]


def test_answers_are_generated_where_the_metric_is_one_of_answers(chatml):
    table = {"prompt": ["hi", "how"], "completion": ["hello you", "well"]}
    data = task(chatml, table, metric="answer_f1", max_new_tokens=8, stop="\n")
    says = Says({"hello you": "Hello!\nbye", "well": " well"})
    found = TYPES["chat"].evaluate(data, says, ["test"])["test"]
    assert found.metrics["exact_match"] == 0.5
    assert found.metrics["answer_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert found.metrics["neg_log_loss"] == pytest.approx(-2 / (3 + 1 + 1 + 1))
    assert set(found.answers) == {"Hello!", "well"}


def test_generation_ends_with_the_token_that_ends_a_turn(chatml, model):
    """The tokenizer's end-of-text token is another one here."""
    split = task(chatml, {"messages": [turns("hi", "bye"), turns("how are you", "well")]}).splits["test"]
    free = ModelPasses(model, 2, 0, tokenizer=chatml).generate(split, 6)
    said = chatml.convert_tokens_to_ids(chatml.tokenize(free[0]))
    ended = ModelPasses(model, 2, 0, tokenizer=chatml).generate(split, 6, (said[0],))
    assert ended[0] == chatml.decode([said[0]], skip_special_tokens=True)


def test_few_logits_are_computed_at_a_time(chatml):
    table = {"messages": [turns("hi", "bye " * 40)] * 60}
    split = task(chatml, table, max_length=128).splits["test"]
    batches = split.evaluation_batches(256)
    assert sorted(np.concatenate(batches).tolist()) == list(range(60))
    assert max(len(rows) * split.answered[rows].max() for rows in batches) <= 4096
