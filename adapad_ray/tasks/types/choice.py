"""A causal language model chooses: of several words or phrases after a prompt, the likeliest (BoolQ, SST-2 as text)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.base import Evaluated, Passes, RawTask, TaskData
from adapad_ray.tasks.encoding.prompts import (
    PromptedSplit,
    PromptSource,
    PromptTask,
    check_room,
    fill_prompts,
    prompted,
    sequences,
)
from adapad_ray.tasks.losses import IGNORED
from adapad_ray.tasks.metrics import ClassMetricName, find_metric
from adapad_ray.tasks.types.classification import check_classes, encode_labels, labels_as_text, sort_labels


class ChoiceSource(PromptSource):
    """A prompt, and a word for each label."""

    type: Literal["choice"]
    label: str = "label"
    words: dict[str, str] = Field(min_length=2)
    """Label → what follows the prompt, its leading space included: `{0: " terrible", 1: " great"}`. Labels of the data
    are compared as text, true and false in lower case."""
    metric: ClassMetricName = "accuracy"
    """F1 is of the second label, in the order in which labels sort."""
    score: Literal["sum", "mean"] = "sum"
    """Of the log-probabilities of a choice's tokens; the mean favours no short choice."""

    @field_validator("words", mode="before")
    @classmethod
    def _labels_are_text(cls, words: Any) -> Any:
        """YAML reads `0` as a number, and `true` and `yes` as a truth value."""
        if not isinstance(words, Mapping):
            return words
        return {str(key).lower() if isinstance(key, bool) else str(key): word for key, word in words.items()}


class Choice(PromptTask[ChoiceSource]):
    """Prompts and choices. Training sees the right choice alone; the others only compete in evaluation."""

    name = "choice"
    Source = ChoiceSource

    def select(self, table: pd.DataFrame, source: ChoiceSource, split: str) -> pd.DataFrame:
        """Prompts, and labels as text."""
        frame = fill_prompts(table, source, split, label=source.label)
        labels = table[source.label]
        if pd.api.types.is_bool_dtype(labels):
            labels = labels.map({True: "true", False: "false"})
        return frame.assign(label=labels_as_text(labels, source.label, split).to_numpy())

    def label(
        self, splits: Mapping[str, pd.DataFrame], source: ChoiceSource, name: str
    ) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
        """Labels as numbers of the choices, all of which must have a word."""
        names = sort_labels(set(source.words))
        for split, frame in splits.items():
            unknown = sorted(set(frame["label"]) - set(names))
            if unknown:
                raise BadRequestError(
                    f"the {split} split of task {name!r} holds labels without a word ({', '.join(unknown[:5])}): "
                    f"task.words has {', '.join(names)}"
                )
        check_classes(source.metric, names, name)
        codes = {label: index for index, label in enumerate(names)}
        return {split: encode_labels(frame, codes, split) for split, frame in splits.items()}, names

    def settings(self, raw: RawTask) -> dict[str, Any]:
        """How choices are scored."""
        return {"score": raw.source.score, "choices": len(raw.label_names)}

    def check_reader(self, raw: RawTask, reader: Any, max_length: int) -> None:
        """A prompt must fit beside the longest choice."""
        check_room(reader, max_length, max(map(len, _choices(raw, reader))))

    def encode(self, raw: RawTask, frame: pd.DataFrame, split: str, reader: Any, max_length: int) -> PromptedSplit:
        """One sequence an item for training, and one for each of its choices otherwise."""
        words, labels = _choices(raw, reader), frame["label"].to_numpy(dtype=np.int64)
        answers = [[words[label]] if split == "train" else words for label in labels]
        return prompted(*sequences(frame["text"].tolist(), answers, reader, max_length), labels)

    def evaluate(self, data: TaskData, passes: Passes, splits: list[str]) -> dict[str, Evaluated]:
        """Log-probabilities of the choices `[items, choices]`, which are judged like logits."""
        found = {}
        for name in splits:
            split = data.splits[name]
            scores = np.empty(len(split), dtype=np.float32)
            for rows, batch, output in passes.outputs(split):
                scores[rows] = _score(output.logits, batch["labels"], data.settings["score"])
            choices = scores.reshape(-1, data.settings["choices"])
            found[name] = Evaluated(choices, find_metric(data.metric).scores(choices, split.labels))
        return found


def _choices(raw: RawTask, tokenizer: Any) -> list[list[int]]:
    """Tokens of every choice, in the order of the labels."""
    return [tokenizer(raw.source.words[label], add_special_tokens=False)["input_ids"] for label in raw.label_names]


def _score(logits: Any, labels: Any, how: str) -> np.ndarray:
    """Sum or mean of the log-probabilities of the tokens `[batch, answer]` that are not ignored."""
    known = labels != IGNORED
    chosen = logits.log_softmax(-1).gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2) * known
    total = chosen.sum(1)
    result: np.ndarray = (total / known.sum(1) if how == "mean" else total).numpy()
    return result
