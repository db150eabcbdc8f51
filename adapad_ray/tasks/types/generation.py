"""Generation: greedy answers of a causal language model, scored as in SQuAD or by their last number."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.answers import acceptable_answers
from adapad_ray.tasks.data.conversations import Place
from adapad_ray.tasks.data.tables import Columns
from adapad_ray.tasks.encoding.prompts import PromptedSplit, check_room, prompted, sequences
from adapad_ray.tasks.metrics import AnswerMetricName, find_metric
from adapad_ray.tasks.task_data import Evaluated, Passes, RawTask, TaskData
from adapad_ray.tasks.types.answer_scores import ended, score_answer
from adapad_ray.tasks.types.prompts import PromptSource, PromptTask, fill_prompts


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
    evaluates_loss = False

    def placeholder(self, class_names: tuple[str, ...]) -> list[str]:
        """No acceptable answer."""
        return []

    def select(self, table: pd.DataFrame, source: GenerationSource, split: str) -> pd.DataFrame:
        """Prompts, and `label`, the acceptable answers."""
        frame = fill_prompts(table, source, split)
        answers = [
            acceptable_answers(value, Place(source.answer, split, row), source.no_answer)
            for row, value in enumerate(table[source.answer], 1)
        ]
        return frame.assign(label=pd.Series(answers, dtype=object))

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
            texts = [ended(text, stop) for text in texts]
            scores = np.array([score_answer(t, gold, match) for t, gold in zip(texts, split.gold, strict=True)])
            metrics = find_metric(data.metric).scores(scores, split.labels)
            results[name] = Evaluated(scores.astype(np.float32), metrics, tuple(texts))
        return results
