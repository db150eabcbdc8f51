"""Chat: conversations through the tokenizer's chat template; the loss is on what the assistant says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.chat_columns import MESSAGES, ChatShape, Messages, Pairs, find_shape
from adapad_ray.tasks.data.column_names import names_in_file
from adapad_ray.tasks.data.columns import with_group
from adapad_ray.tasks.data.conversations import Message
from adapad_ray.tasks.data.tables import Columns, Tables, warn
from adapad_ray.tasks.encoding.assumed import AssumedSplit
from adapad_ray.tasks.encoding.chat_template import PLAIN, ChatTemplate, read_template
from adapad_ray.tasks.encoding.conversations import ConversationSplit, Limits, encode_conversations
from adapad_ray.tasks.encoding.prompts import assumed_prompts, check_room
from adapad_ray.tasks.losses import answer_cross_entropy, answer_loss
from adapad_ray.tasks.metrics import find_metric, metric_of
from adapad_ray.tasks.metrics.likelihoods import NEG_LOG_LOSS, perplexity
from adapad_ray.tasks.rows import RowTask
from adapad_ray.tasks.source import DataSource, SourceFile
from adapad_ray.tasks.task_data import Evaluated, Passes, RawTask, Split, TaskData
from adapad_ray.tasks.types.answer_scores import ended, score_answer
from adapad_ray.wording import counted

_COLUMNS = ("messages", "prompt", "completion", "instruction", "input", "output")
"""The fields that name columns, shape by shape."""


class ChatSource(DataSource):
    """Conversations in one of three shapes; columns that are not named are found by their usual names."""

    finds_columns: ClassVar[bool] = True
    type: Literal["chat"]
    messages: str | None = None
    """Column with lists of `{role, content}`, or of `{from, value}`."""
    prompt: str | None = None
    completion: str | None = None
    """Column with a text, a list of acceptable texts, or SQuAD's `{text: [...]}`; the first one is trained."""
    instruction: str | None = None
    input: str | None = None
    """Column with what an instruction is about, which may be empty; it follows after a blank line."""
    output: str | None = None
    """As `completion`."""
    no_answer: str = "unanswerable"
    """The answer where the list is empty."""
    system: str | None = None
    """System prompt of the conversations that have none."""
    chat_template: str | None = None
    """Path of a Jinja template, or `plain`; default: the tokenizer's own."""
    max_new_tokens: int = Field(default=64, ge=2)
    """Tokens of the longest generated answer."""
    stop: str | None = None
    """Text that ends an answer, beside the special tokens that do."""
    match: Literal["text", "number"] = "text"
    """As for `generation`."""
    metric: Annotated[str, metric_of("likelihoods", "answers")] = NEG_LOG_LOSS.name
    """With `exact_match` or `answer_f1`, evaluation generates the last answer of every conversation."""

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        shapes = [
            [name for name in names if getattr(self, name) is not None]
            for names in (_COLUMNS[:1], _COLUMNS[1:3], _COLUMNS[3:])
        ]
        named = [f"task.{names[0]}" for names in shapes if names]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} are of different shapes: name the columns of one")
        return self

    @property
    def shape(self) -> ChatShape | None:
        """How columns hold conversations; None where no column is named."""
        if self.messages is not None:
            return Messages(self.messages)
        if self.prompt is not None or self.completion is not None:
            return Pairs({"prompt": self.prompt or "prompt"}, "completion", self.completion or "completion")
        if self.instruction is not None or self.input is not None or self.output is not None:
            asked = {"instruction": self.instruction or "instruction"} | ({"input": self.input} if self.input else {})
            return Pairs(asked, "output", self.output or "output")
        return None

    def columns(self) -> Columns:
        """Those of the conversations, and the group."""
        return (self.shape or Messages("messages")).columns() | super().columns()

    def found_in(self, columns: Sequence[str]) -> Self:
        """The same with the columns of conversations among these, if none is named."""
        if self.shape is not None:
            return self
        found = find_shape(columns).columns()
        return self.model_copy(update=dict(found))

    def for_rows(self, columns: Sequence[str]) -> Self:
        """The same, which reads messages where the columns of the training are missing."""
        if self.shape is None:
            return self.found_in(columns)
        others = [name for name in MESSAGES if name in columns]
        if not others or any(column in columns for column in self.shape.columns().values()):
            return self
        return self.model_copy(update=dict.fromkeys(_COLUMNS) | {"messages": others[0]})

    def read_tables(self) -> Tables:
        """The rows of every split."""
        if self.shape is not None or self.dataset is not None or self.train is None:
            return super().read_tables()
        names = names_in_file(self.train)  # without any, the file cannot be read, and reading it says why
        return super(ChatSource, self.found_in(names) if names else self).read_tables()

    def for_predictions(self) -> Self:
        """The same, which answers."""
        return self.model_copy(update={"metric": "exact_match"})

    def inside(self, folder: str | None) -> Self:
        """The same with its files, the chat template among them, in `folder`."""
        found = super().inside(folder)
        if folder is None or self.chat_template in (None, PLAIN):
            return found
        return found.model_copy(update={"chat_template": str(Path(folder).expanduser() / str(self.chat_template))})

    def files(self) -> list[SourceFile]:
        """The files of the rows, and the chat template's."""
        own = [] if self.chat_template in (None, PLAIN) else [self.chat_template]
        return super().files() + [SourceFile("task.chat_template", path, True) for path in own if path]


class Chat(RowTask[ChatSource]):
    """Conversations: all answers are learnt and scored by their likelihood, and the last one is generated."""

    name = "chat"
    Source = ChatSource
    auto_class: ClassVar[str | None] = "AutoModelForCausalLM"
    loss = staticmethod(answer_cross_entropy)
    can_pack_sequences: ClassVar[bool] = True
    writes_special_tokens: ClassVar[bool] = True

    def outputs(self, class_names: tuple[str, ...]) -> int:
        """None: the model has no task head."""
        return 0

    def planning_reader(self, model: str) -> tuple[Any, bool]:
        """As of other types; a stand-in writes conversations by the plain template."""
        reader, own = super().planning_reader(model)
        if not own:
            reader.chat_template = read_template(PLAIN)
        return reader, own

    def read_tables(self, source: ChatSource, found: Tables) -> RawTask:
        """The task of rows that have been read already, with its columns found and its chat template tried."""
        read_template(source.chat_template)
        return super().read_tables(source.found_in(list(map(str, found.splits["train"]))), found)

    def select(self, table: pd.DataFrame, source: ChatSource, split: str) -> pd.DataFrame:
        """`conversation`, its `place`, `text` before the last answer, and `label`, the acceptable last answers."""
        shape = source.found_in(list(map(str, table))).shape
        assert shape is not None
        rows = list(shape.rows(table, split, source.no_answer))
        if tools := sum(row.used_tools for row in rows):
            warn(table, f"{counted(tools, 'conversation')} with tools: their calls and answers are left out")
        conversations = [_with_system(row.conversation, source.system) for row in rows]
        columns: dict[str, list[Any]] = {
            "text": ["\n".join(f"{role}: {content}" for role, content in c[:-1]) for c in conversations],
            "label": [row.gold for row in rows],
            "conversation": conversations,
            "place": [row.place for row in rows],
        }
        frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
        return with_group(frame, table, source.group, split)

    def answer_column(self, source: ChatSource) -> str | None:
        """The column of completions or outputs; None for messages."""
        return source.shape.answer if source.shape else None

    def without_answers(self, table: pd.DataFrame, source: ChatSource, class_names: tuple[str, ...]) -> pd.DataFrame:
        """Rows whose last turn, or whose answer, is a stand-in."""
        assert source.shape is not None
        return source.shape.unanswered(table, "test")

    def settings(self, raw: RawTask) -> dict[str, Any]:
        """How answers are generated and compared, and the template where it is not the tokenizer's."""
        source: ChatSource = raw.source
        settings: dict[str, Any] = {"answers": find_metric(source.metric).predicted == "answers"}
        if settings["answers"]:
            settings |= {name: getattr(source, name) for name in ("max_new_tokens", "stop", "match")}
        if (template := read_template(source.chat_template)) is not None:
            settings["chat_template"] = template
        return settings

    def check_reader(self, raw: RawTask, reader: Any, max_length: int) -> None:
        """A prompt must fit beside the longest answer, and something must end the answers."""
        source: ChatSource = raw.source
        template = ChatTemplate.of(reader, read_template(source.chat_template))
        if template.end is None and source.stop is None:
            raise BadRequestError(
                "the chat template ends an answer with no special token, so that none would end: set task.stop to the "
                "text that follows an answer, or task.chat_template to a template that writes the end-of-text token"
            )
        check_room(reader, max_length, source.max_new_tokens)

    def encode_split(
        self, raw: RawTask, frame: pd.DataFrame, split: str, reader: Any, max_length: int
    ) -> ConversationSplit:
        """Whole conversations, and for all splits but training what is before their last answers."""
        source: ChatSource = raw.source
        template = ChatTemplate.of(reader, read_template(source.chat_template))
        limits = Limits(max_length, 0 if split == "train" else source.max_new_tokens)
        conversations, places = frame["conversation"].tolist(), frame["place"].tolist()
        return encode_conversations(conversations, places, tuple(frame["label"]), template, limits)

    def encoding_warnings(self, raw: RawTask, splits: dict[str, Split], reader: Any, max_length: int) -> list[str]:
        """Conversations that are cut, system prompts that are moved, special tokens in messages, and dates."""
        template, warnings = ChatTemplate.of(reader, read_template(raw.source.chat_template)), []
        cut = {name: split.cut for name, split in splits.items() if isinstance(split, ConversationSplit) and split.cut}
        if cut:
            warnings.append(
                f"conversations are longer than max_length {max_length:,} ({_counts(cut)}): their beginning is left "
                f"out, and what their last answer has beyond {max_length // 2:,} tokens and the room that is left"
            )
        rows = {name: frame["conversation"].tolist() for name, frame in raw.splits.items()}
        system = {name: sum(c[0].role == "system" for c in conversations) for name, conversations in rows.items()}
        if any(system.values()) and template.folds_system:
            warnings.append(
                f"the chat template takes no system prompt: it is put before the first user's turn ({_counts(system)})"
            )
        special = {name: sum(map(template.holds_special, conversations)) for name, conversations in rows.items()}
        if any(special.values()):
            warnings.append(
                f"messages hold special tokens of the chat template ({_counts(special)}), which may end or split a "
                "turn: take them out if that is not meant"
            )
        if template.depends_on_the_day:
            warnings.append(
                "the chat template writes today's date, so that tomorrow these are other data and other cells: set "
                "task.chat_template to a copy without it"
            )
        return warnings

    def assume_split(self, source: ChatSource, count: int, max_length: int, reader: Any) -> AssumedSplit:
        """Conversations of `max_length` tokens."""
        return assumed_prompts(count, max_length)

    def evaluate(self, data: TaskData, passes: Passes, splits: list[str]) -> dict[str, Evaluated]:
        """Exact match, F1, summed loss and number of tokens of the answers, `[items, 4]`; the loss is over tokens."""
        settings, results = data.settings, {}
        for name in splits:
            split = data.splits[name]
            assert isinstance(split, ConversationSplit)
            scores = np.zeros((len(split), 4), dtype=np.float32)
            scores[:, 2], scores[:, 3] = passes.losses(split, answer_loss), split.learnt_tokens
            metrics = NEG_LOG_LOSS.scores(scores, split.labels)
            loss, texts = -metrics[NEG_LOG_LOSS.name], []
            if settings["answers"]:
                ends = () if split.end is None else (split.end,)
                generated = passes.generate(split, settings["max_new_tokens"], ends)
                texts = [ended(text, settings["stop"]) for text in generated]
                scores[:, :2] = [
                    score_answer(text, gold, settings["match"]) for text, gold in zip(texts, split.gold, strict=True)
                ]
                metrics |= find_metric(data.metric).scores(scores, split.labels)
            results[name] = Evaluated(scores, metrics | {"perplexity": perplexity(loss)}, tuple(texts), loss=loss)
        return results


def _with_system(conversation: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    if system is None or conversation[0].role == "system":
        return conversation
    return (Message("system", system), *conversation)


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{count:,} of {split}" for split, count in found.items() if count)
