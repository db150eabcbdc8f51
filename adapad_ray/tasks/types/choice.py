"""Choices of a causal language model: the likeliest of several words or phrases after a prompt (BoolQ, SST-2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.columns import classes_as_text, encode_classes, sort_classes, spelling_hint
from adapad_ray.tasks.data.tables import Columns
from adapad_ray.tasks.encoding.prompts import PromptedSplit, check_room, prompted, sequences
from adapad_ray.tasks.logits import mean_loss
from adapad_ray.tasks.losses import IGNORED, cross_entropy
from adapad_ray.tasks.metrics import ClassMetricName, check_classes, find_metric
from adapad_ray.tasks.task_data import Evaluated, Passes, RawTask, TaskData
from adapad_ray.tasks.types.prompts import PromptSource, PromptTask, fill_prompts


class ChoiceSource(PromptSource):
    """A prompt, and a word for each class."""

    type: Literal["choice"]
    label: str = "label"
    words: dict[str, str] = Field(min_length=2)
    """Class → what follows the prompt, its leading space included: `{0: " terrible", 1: " great"}`. Classes of the data
    are compared as text, true and false in lower case."""
    metric: ClassMetricName = "accuracy"
    """`f1` is that of the second class, in sorted order."""
    score: Literal["sum", "mean"] = "sum"
    """Over the log-probabilities of a choice's tokens; the mean does not favour short choices."""

    def columns(self) -> Columns:
        """Those of the prompt, and the label."""
        return super().columns() | {"label": self.label}

    @field_validator("words", mode="before")
    @classmethod
    def _classes_are_text(cls, words: Any) -> Any:
        """YAML reads `0` as a number, and `true` and `yes` as booleans."""
        if not isinstance(words, Mapping):
            return words
        return {str(key).lower() if isinstance(key, bool) else str(key): word for key, word in words.items()}

    @field_validator("words")
    @classmethod
    def _words_differ(cls, words: dict[str, str]) -> dict[str, str]:
        by_word: dict[str, str] = {}
        for name, word in words.items():
            if not word.strip():
                raise ValueError(f"class {name!r} has no word")
            if word in by_word:
                raise ValueError(f"classes {by_word[word]!r} and {name!r} have the same word {word!r}")
            by_word[word] = name
        return words


class Choice(PromptTask[ChoiceSource]):
    """Prompts and choices. Training reads the right choice only; evaluation compares all of them."""

    name = "choice"
    Source = ChoiceSource

    def select(self, table: pd.DataFrame, source: ChoiceSource, split: str) -> pd.DataFrame:
        """Prompts, and classes as text."""
        frame = fill_prompts(table, source, split)
        labels = classes_as_text(table[source.label], source.label, split)
        return frame.assign(label=[_as_in_words(label, source.words) for label in labels])

    def number_labels(
        self, splits: Mapping[str, pd.DataFrame], source: ChoiceSource, task: str
    ) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
        """Numbers of the choices; every class must have a word."""
        names = sort_classes(set(source.words))
        for split, frame in splits.items():
            unknown = sorted(set(frame["label"]) - set(names))
            if unknown:
                raise BadRequestError(
                    f"the {split} split of task {task!r} holds labels without a word ({', '.join(unknown[:5])}): "
                    f"task.words has {', '.join(names)}{spelling_hint(unknown, names)}"
                )
        check_classes(source.metric, len(names), task)
        return {split: encode_classes(frame, names, split) for split, frame in splits.items()}, names

    def settings(self, raw: RawTask) -> dict[str, Any]:
        """How choices are scored."""
        return {"score": raw.source.score, "choices": len(raw.class_names)}

    def check_reader(self, raw: RawTask, reader: Any, max_length: int) -> None:
        """A prompt must fit beside the longest choice."""
        check_room(reader, max_length, max(map(len, _choices(raw, reader))))

    def encode_split(
        self, raw: RawTask, frame: pd.DataFrame, split: str, reader: Any, max_length: int
    ) -> PromptedSplit:
        """One sequence an item for training, and one for each of its choices otherwise."""
        words, labels = _choices(raw, reader), frame["label"].to_numpy(dtype=np.int64)
        answers = [[words[label]] if split == "train" else words for label in labels]
        return prompted(*sequences(frame["text"].tolist(), answers, reader, max_length), labels)

    def evaluate(self, data: TaskData, passes: Passes, splits: list[str]) -> dict[str, Evaluated]:
        """Log-probabilities of the choices `[items, choices]`, scored like logits of classes."""
        results = {}
        for name in splits:
            split = data.splits[name]
            scores = np.empty(len(split), dtype=np.float32)
            for rows, batch, output in passes.outputs(split):
                scores[rows] = _score(output.logits, batch["labels"], data.settings["score"])
            choices = scores.reshape(-1, data.settings["choices"])
            metrics = find_metric(data.metric).scores(choices, split.labels)
            results[name] = Evaluated(choices, metrics, loss=mean_loss(cross_entropy, choices, split.labels))
        return results


def _as_in_words(label: str, words: Mapping[str, str]) -> str:
    """The label, or True and False in lower case, as YAML's booleans are spelled here."""
    return label.lower() if label not in words and label.lower() in ("true", "false") else label


def _choices(raw: RawTask, tokenizer: Any) -> list[list[int]]:
    """Tokens of every choice, in the order of the classes."""
    return [tokenizer(raw.source.words[name], add_special_tokens=False)["input_ids"] for name in raw.class_names]


def _score(logits: Any, labels: Any, how: str) -> np.ndarray:
    """Sum or mean of the log-probabilities of the tokens `[batch, answer]` that are not ignored."""
    known = labels != IGNORED
    chosen = logits.log_softmax(-1).gather(2, labels.clamp(min=0).unsqueeze(2)).squeeze(2) * known
    total = chosen.sum(1)
    result: np.ndarray = (total / known.sum(1) if how == "mean" else total).numpy()
    return result
