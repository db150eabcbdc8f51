"""Extractive question answering: a question and a context in, a span of the context out, or no answer (SQuAD 1.1, 2.0).

A long context is read in overlapping windows. The answer is the best span of all windows. If training has questions
without an answer, the model abstains where the first token (the classifier's, in BERT) beats the best span by more than
a threshold, which is chosen on validation and applied to the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from pydantic import Field

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.data.columns import as_text, require_columns, with_group
from adapad_ray.tasks.data.tables import Columns
from adapad_ray.tasks.encoding.assumed import AssumedSplit
from adapad_ray.tasks.encoding.texts import assumed_texts, check_length
from adapad_ray.tasks.encoding.windows import SpanSplit, make_windows
from adapad_ray.tasks.losses import span_cross_entropy
from adapad_ray.tasks.metrics import AnswerMetricName, check_finite, find_metric
from adapad_ray.tasks.rows import RowTask
from adapad_ray.tasks.source import DataSource
from adapad_ray.tasks.squad_scores import best_threshold, exact_match, token_f1
from adapad_ray.tasks.task_data import Evaluated, Passes, RawTask, TaskData
from adapad_ray.wording import counted


class SpanSource(DataSource):
    """Questions over contexts, with the answers as SQuAD has them: `{text: [...], answer_start: [...]}`."""

    type: Literal["span"]
    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    """Column of answers; empty lists mean that the question has none."""
    answerable_only: bool = False
    """Whether questions without an answer are left out, which turns SQuAD 2.0 into SQuAD 1.1."""
    metric: AnswerMetricName = "answer_f1"
    stride: int = Field(default=128, ge=1)
    """Tokens that neighbouring windows share; the windows are `max_length` long."""
    max_question: int = Field(default=64, ge=1)
    """Tokens; longer questions are cut. As in BERT's own script, like the next two."""
    max_answer: int = Field(default=30, ge=1)
    """Tokens of the longest answer."""
    n_best: int = Field(default=20, ge=1)
    """Starts and ends of each window that are combined into spans."""

    def columns(self) -> Columns:
        """Question, context, answers and group."""
        named = {"question": self.question, "context": self.context, "answers": self.answers}
        return named | super().columns()

    def for_predictions(self) -> Self:
        """The same, whether or not a question has an answer."""
        return self.model_copy(update={"answerable_only": False})


class Span(RowTask[SpanSource]):
    """Questions, contexts and spans."""

    name = "span"
    auto_class: ClassVar[str | None] = "AutoModelForQuestionAnswering"
    loss = staticmethod(span_cross_entropy)
    Source = SpanSource
    answer_field = "answers"
    evaluates_loss = False

    def placeholder(self, class_names: tuple[str, ...]) -> dict[str, list[Any]]:
        """No answer."""
        return {"text": [], "answer_start": []}

    def prediction_columns(self, evaluated: Evaluated, class_names: tuple[str, ...]) -> dict[str, Sequence[Any]]:
        """The answer, empty where the model abstains, and its score against answering."""
        return {"prediction": evaluated.answers, "score against answering": evaluated.predictions[:, 2].tolist()}

    def select(self, table: pd.DataFrame, source: SpanSource, split: str) -> pd.DataFrame:
        """`text` is the context, `text_pair` the question, `label` the answers' texts and first characters."""
        require_columns(table, source.columns(), split)
        frame = pd.DataFrame(
            {
                "text": as_text(table[source.context], source.context, split),
                "text_pair": as_text(table[source.question], source.question, split),
                "label": [
                    _answers(value, source.answers, split, row) for row, value in enumerate(table[source.answers], 1)
                ],
            }
        )
        frame = with_group(frame, table, source.group, split)
        if source.answerable_only:
            frame = frame[[len(texts) > 0 for texts, _ in frame["label"]]]
        _check_starts(frame, frame.index + 1, split)
        return frame.reset_index(drop=True)

    def outputs(self, class_names: tuple[str, ...]) -> int:
        """Two: start and end."""
        return 2

    def settings(self, raw: RawTask) -> dict[str, Any]:
        """Whether the model may abstain, and how spans are searched."""
        abstains = any(not texts for texts, _ in raw.splits["train"]["label"])
        return {"abstains": abstains, "max_answer": raw.source.max_answer, "n_best": raw.source.n_best}

    def check_reader(self, raw: RawTask, reader: Any, max_length: int) -> None:
        """A window must hold the longest question and more context than it shares with the next."""
        source: SpanSource = raw.source
        check_length(reader, max_length, pair=True, room=source.max_question + source.stride + 1)

    def encode_split(self, raw: RawTask, frame: pd.DataFrame, split: str, reader: Any, max_length: int) -> SpanSplit:
        """Windows of `max_length` tokens over every context."""
        source: SpanSource = raw.source
        return make_windows(frame, reader, max_length, source.stride, source.max_question)

    def evaluate(self, data: TaskData, passes: Passes, splits: list[str]) -> dict[str, Evaluated]:
        """Exact match and F1 of the answers given, and the score against answering: `[questions, 3]`."""
        threshold = data.settings.get("threshold", np.inf)
        results = {}
        for name in splits:
            split = data.splits[name]
            assert isinstance(split, SpanSplit)
            spans = best_spans(split, passes, data.settings["n_best"], data.settings["max_answer"])
            scores = spans.scores(split.answers)
            unanswered = (split.labels == 0).astype(float)
            if name == "validation" and data.settings["abstains"]:
                threshold = best_threshold(spans.no_answer, scores[:, int(data.metric == "answer_f1")], unanswered)
            answered = spans.no_answer <= threshold
            judged = np.where(answered[:, None], scores, unanswered[:, None])
            results[name] = Evaluated(
                np.column_stack([judged, spans.no_answer]).astype(np.float32),
                find_metric(data.metric).scores(judged, split.labels)
                | _by_kind(judged, scores, split.labels == 1, threshold),
                tuple(text if given else "" for text, given in zip(spans.texts, answered, strict=True)),
            )
        return results

    def assume_split(self, source: SpanSource, count: int, max_length: int, reader: Any) -> AssumedSplit:
        """One full window per question."""
        return assumed_texts(count, max_length, np.zeros(2, dtype=np.int64))


@dataclass(frozen=True)
class BestSpans:
    """The best span of every question among all its windows."""

    texts: list[str]
    no_answer: np.ndarray
    """The lowest score of the first token minus the span's score, float64 `[questions]`."""

    def scores(self, answers: tuple[tuple[str, ...], ...]) -> np.ndarray:
        """Exact match and F1 of the spans `[questions, 2]`."""
        pairs = zip(self.texts, answers, strict=True)
        return np.array([[exact_match(text, gold), token_f1(text, gold)] for text, gold in pairs])


def best_spans(split: SpanSplit, passes: Passes, n_best: int, max_answer: int) -> BestSpans:
    """Return the spans with the largest sum of logits among the `n_best` starts and ends of every window.

    Raises:
        FloatingPointError: a logit is not finite.
    """
    questions = len(split.contexts)
    null, best = np.full(questions, np.inf), np.full(questions, -np.inf)
    texts = [""] * questions
    offsets = split.windows.offsets
    for rows, _, output in passes.outputs(split):
        starts, ends = output.start_logits.numpy(), output.end_logits.numpy()
        for row, window in enumerate(rows):
            inside = slice(offsets[window], offsets[window + 1])
            first, last = starts[row, : inside.stop - inside.start], ends[row, : inside.stop - inside.start]
            check_finite(np.stack([first, last], axis=1))
            item = split.items[window]
            null[item] = min(null[item], float(first[0]) + float(last[0]))
            begins = split.begins[inside]
            score, i, j = _best_pair(first, last, np.flatnonzero(begins >= 0), n_best, max_answer)
            if score > best[item]:
                best[item] = score
                texts[item] = split.contexts[item][begins[i] : split.ends[inside][j]]
    return BestSpans(texts, null - best)


def _best_pair(
    starts: np.ndarray, ends: np.ndarray, tokens: np.ndarray, n_best: int, max_answer: int
) -> tuple[float, int, int]:
    """Score, first and last token of the best span of `tokens`; a score of -inf without one."""
    first = tokens[np.argsort(-starts[tokens], kind="stable")[:n_best]]
    last = tokens[np.argsort(-ends[tokens], kind="stable")[:n_best]]
    length = last[None, :] - first[:, None] + 1
    sums = np.where((length >= 1) & (length <= max_answer), starts[first][:, None] + ends[last][None, :], -np.inf)
    if not sums.size:
        return -np.inf, 0, 0
    i, j = np.unravel_index(sums.argmax(), sums.shape)
    return float(sums[i, j]), int(first[i]), int(last[j])


def _by_kind(judged: np.ndarray, scores: np.ndarray, has_answer: np.ndarray, threshold: float) -> dict[str, float]:
    """Scores of the questions with and without an answer; of the best spans themselves where there is an answer."""
    values: dict[str, float] = {}
    if has_answer.any():
        values |= {
            "has_answer_exact_match": judged[has_answer, 0].mean(),
            "has_answer_f1": judged[has_answer, 1].mean(),
            "best_span_f1": scores[has_answer, 1].mean(),
        }
    if not has_answer.all():
        values["no_answer_accuracy"] = judged[~has_answer, 0].mean()
    if np.isfinite(threshold):
        values["no_answer_threshold"] = threshold
    return {name: float(value) for name, value in values.items()}


def _answers(value: Any, column: str, split: str, row: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    try:
        texts, starts = value["text"], value["answer_start"]
        if not all(isinstance(part, (list, tuple, np.ndarray)) for part in (texts, starts)) or len(texts) != len(
            starts
        ):
            raise TypeError("no lists of equal length")
        texts, starts = tuple(map(str, texts)), tuple(map(int, starts))
        if not all(map(str.strip, texts)):
            raise ValueError("an empty answer")
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise BadRequestError(
            f"column {column!r} of the {split} data holds {str(value)[:80]!r}: answers are "
            f"{{text: [...], answer_start: [...]}}, with empty lists where there is none (row {row:,})"
        ) from error
    return texts, starts


def _check_starts(frame: pd.DataFrame, rows: Iterable[int], split: str) -> None:
    wrong = [
        row
        for row, text, (answers, starts) in zip(rows, frame["text"], frame["label"], strict=True)
        for answer, start in zip(answers[:1], starts[:1], strict=True)
        if start < 0 or not text[start:].startswith(answer)
    ]
    if wrong:
        raise BadRequestError(
            f"answer_start of {counted(len(wrong), 'row')} of the {split} data does not point to the answer's text "
            f"(first in row {wrong[0]:,}): it counts characters of the context from 0"
        )
