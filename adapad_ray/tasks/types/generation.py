"""Generation: greedy answers of a causal language model, scored as in SQuAD or by their last number."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.columns import text_of
from adapad_ray.tasks.data.tables import Columns
from adapad_ray.tasks.encoding.prompts import PromptedSplit, check_room, prompted, sequences
from adapad_ray.tasks.metrics import AnswerMetricName, find_metric
from adapad_ray.tasks.squad_scores import exact_match, token_f1
from adapad_ray.tasks.task_data import Evaluated, Passes, RawTask, TaskData
from adapad_ray.tasks.types.prompts import PromptSource, PromptTask, fill_prompts

if TYPE_CHECKING:
    pass

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class GenerationSource(PromptSource):
    """A prompt, and the answer that should follow it."""

    type: Literal["generation"]
    answer: str = "answer"
    """Column with a text, a list of acceptable texts, or SQuAD's `{text: [...]}`; the first one is trained."""
    no_answer: str = "unanswerable"
    """The answer where the list is empty."""
    separator: str = " "
    """Text between prompt and answer, which the model learns to write with the answer."""
    max_new_tokens: int = Field(default=32, ge=2)
    """Tokens of the longest answer, the end-of-text token included; longer ones are cut in training."""
    stop: str | None = None
    """Text that ends an answer, such as a line break, beside the end-of-text token."""
    match: Literal["text", "number"] = "text"
    """`text`: SQuAD's normalisation. `number`: the last number of both, as for GSM8K; F1 is then the same."""
    metric: AnswerMetricName = "exact_match"

    def columns(self) -> Columns:
        """Those of the prompt, and the answer."""
        return super().columns() | {"answer": self.answer}


class Generation(PromptTask[GenerationSource]):
    """Prompts and answers; the loss is on the answer's tokens and the end-of-text token only."""

    name = "generation"
    Source = GenerationSource
    answer_field = "answer"

    def placeholder(self, class_names: tuple[str, ...]) -> list[str]:
        """No acceptable answer."""
        return []

    def select(self, table: pd.DataFrame, source: GenerationSource, split: str) -> pd.DataFrame:
        """Prompts, and `label`, the acceptable answers."""
        frame = fill_prompts(table, source, split)
        frame["label"] = pd.Series(
            [_answers(value, source, split, row) for row, value in enumerate(table[source.answer], 1)], dtype=object
        )
        return frame

    def settings(self, raw: RawTask) -> dict[str, Any]:
        """How answers are generated and compared."""
        return {name: getattr(raw.source, name) for name in ("max_new_tokens", "stop", "match")}

    def check_reader(self, raw: RawTask, reader: Any, max_length: int) -> None:
        """A prompt must fit beside the longest answer."""
        if reader.eos_token_id is None:
            raise BadRequestError("the model's tokenizer has no end-of-text token, without which no answer ends")
        check_room(reader, max_length, raw.source.max_new_tokens)

    def encode_split(
        self, raw: RawTask, frame: pd.DataFrame, split: str, reader: Any, max_length: int
    ) -> PromptedSplit:
        """Prompt, separator, the first acceptable answer and the end-of-text token.

        Prompts are cut to `max_length - max_new_tokens`, in training as in generation.
        """
        source: GenerationSource = raw.source
        texts = [source.separator + answers[0] for answers in frame["label"]]
        tokens = reader(texts, add_special_tokens=False)["input_ids"]
        answers = [[[*ids[: source.max_new_tokens - 1], reader.eos_token_id]] for ids in tokens]
        rest = max_length - source.max_new_tokens
        rows: list[list[int]] = []
        for prompt, (answer,) in zip(frame["text"], answers, strict=True):
            rows += sequences([prompt], [[answer]], reader, rest + len(answer))[0]
        lengths = [len(answer) for (answer,) in answers]
        labels = np.ones(len(frame), dtype=np.int64)
        return prompted(rows, lengths, labels, tuple(frame["label"]))

    def evaluate(self, data: TaskData, passes: Passes, splits: list[str]) -> dict[str, Evaluated]:
        """Exact match and F1 of the generated answers, `[items, 2]`."""
        stop, match = data.settings["stop"], data.settings["match"]
        results = {}
        for name in splits:
            split = data.splits[name]
            assert isinstance(split, PromptedSplit)
            texts = passes.generate(split, data.settings["max_new_tokens"])
            texts = [(text.partition(stop)[0] if stop else text).strip() for text in texts]
            scores = np.array([_scores(t, gold, match) for t, gold in zip(texts, split.gold, strict=True)])
            metrics = find_metric(data.metric).scores(scores, split.labels)
            results[name] = Evaluated(scores.astype(np.float32), metrics, tuple(texts))
        return results


def last_number(text: str) -> str:
    """The last number of a text, without thousands separators and trailing zeros of a fraction; '' without any."""
    found = _NUMBER.findall(text)
    if not found:
        return ""
    number = str(found[-1]).replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def _scores(answer: str, gold: tuple[str, ...], match: str) -> tuple[float, float]:
    if match == "number":
        right = float(last_number(answer) in [last_number(text) for text in gold] and last_number(answer) != "")
        return right, right
    return exact_match(answer, gold), token_f1(answer, gold)


def _answers(value: Any, source: GenerationSource, split: str, row: int) -> tuple[str, ...]:
    texts = value.get("text") if isinstance(value, Mapping) else value
    if not isinstance(texts, (list, tuple, np.ndarray)):
        texts = [texts]
    answers = tuple(text_of(text, source.answer, split, row) for text in texts)
    if isinstance(value, str) and not value.strip():
        raise BadRequestError(
            f"column {source.answer!r} of the {split} data holds an empty answer in row {row:,}: drop such rows"
        )
    return answers or (source.no_answer,)
