"""Task types whose rows are read from files or the Hub: reading, carving, order, caps and digest."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.base import TaskType
from adapad_ray.tasks.data.columns import doubtful_classes, encode_classes
from adapad_ray.tasks.data.overlap import shared_rows
from adapad_ray.tasks.data.splits import SPLITS, carve, carved_counts
from adapad_ray.tasks.data.tables import WARNINGS, Tables
from adapad_ray.tasks.source import DataSource
from adapad_ray.tasks.split_sizes import SplitSize
from adapad_ray.tasks.task_data import DataLimits, Evaluated, RawTask, Split, TaskData, digest_of
from adapad_ray.wording import counted

DataSourceT = TypeVar("DataSourceT", bound=DataSource)

SAMPLE_ROWS = 128
"""Rows of `TaskData.validation_sample`. A project default: `benchmarks/RESULTS.md` has what it finds."""


class RowTask(TaskType[DataSourceT]):
    """A task of rows. A subclass selects columns, encodes one split, and evaluates."""

    @abstractmethod
    def select(self, table: pd.DataFrame, source: DataSourceT, split: str) -> pd.DataFrame:
        """The columns `text` and `label` of one split's rows, and what else the type needs.

        `text`, and `label` if it is a string, the name of a class, decide in which split a row is carved; `text`,
        `text_pair` and `label` decide the order of rows.

        Raises:
            BadRequestError: a column is missing, or holds an unusable value.
        """

    @abstractmethod
    def encode_split(self, raw: RawTask, frame: pd.DataFrame, split: str, reader: Any, max_length: int) -> Split:
        """One split as the model reads it.

        Args:
            raw: the task; `raw.source` is the user's description.
            frame: the split's rows, from `select` and `number_labels`.
            split: `train` or another; a type may encode answers for training only.
            reader: the model's tokenizer, or the format of its images.
            max_length: tokens of the longest example.
        """

    @abstractmethod
    def assume_split(self, source: DataSourceT, count: int, max_length: int, reader: Any) -> Split:
        """A split of `count` examples of `max_length` tokens without content."""

    def number_labels(
        self, splits: Mapping[str, pd.DataFrame], source: DataSourceT, task: str
    ) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
        """Splits whose `label` is what predictions are compared with, and the names of the classes, if any.

        Args:
            splits: rows as selected and carved.
            source: the user's description.
            task: the task's name, for messages.

        Raises:
            BadRequestError: labels and metric do not go together.
        """
        return dict(splits), ()

    def number_as(self, frame: pd.DataFrame, class_names: tuple[str, ...], split: str) -> pd.DataFrame:
        """Rows from `select`, labelled as in a training with these classes, if the type has any.

        Raises:
            BadRequestError: a row has another class.
        """
        return encode_classes(frame, class_names, split) if class_names else frame

    evaluates_loss: ClassVar[bool] = True
    """Whether `evaluate` measures a loss. A metric is coarse: without a loss, trials are compared on all rows."""

    answer_field: ClassVar[str] = "label"
    """The field of the source that names the column of right answers."""

    def answer_column(self, source: DataSourceT) -> str | None:
        """The column of right answers, which predictions do without; None where the type has none."""
        return str(getattr(source, self.answer_field))

    def placeholder(self, class_names: tuple[str, ...]) -> Any:
        """A value for the column of right answers that `select` accepts, where there are none."""
        return class_names[0]

    def without_answers(self, table: pd.DataFrame, source: DataSourceT, class_names: tuple[str, ...]) -> pd.DataFrame:
        """The rows with a value that `select` accepts instead of each right answer, whether or not they have any."""
        answer, placeholder = self.answer_column(source), self.placeholder(class_names)
        return table.assign(**{str(answer): pd.Series([placeholder] * len(table), index=table.index, dtype=object)})

    def prediction_columns(self, evaluated: Evaluated, class_names: tuple[str, ...]) -> dict[str, Sequence[Any]]:
        """What is shown of predictions, a value per item: `prediction`, and how sure it is.

        By default the likeliest class and the probability of every class, or the answer, or the first output.
        """
        if evaluated.answers:
            return {"prediction": evaluated.answers}
        outputs = evaluated.predictions
        if not class_names:
            return {"prediction": outputs[:, 0].tolist()}
        shifted = np.exp(outputs.astype(np.float64) - outputs.max(axis=1, keepdims=True))
        shares = shifted / shifted.sum(axis=1, keepdims=True)
        columns: dict[str, Sequence[Any]] = {"prediction": [class_names[i] for i in outputs.argmax(axis=1)]}
        return columns | {f"probability {name}": shares[:, i].tolist() for i, name in enumerate(class_names)}

    def settings(self, raw: RawTask) -> dict[str, Any]:
        """What `evaluate` needs beside the splits. It becomes part of the data's digest."""
        return {}

    def check_reader(self, raw: RawTask, reader: Any, max_length: int) -> None:
        """Check that the rows can be encoded.

        Raises:
            BadRequestError: `max_length` leaves no room for a text, or exceeds the model's limit.
        """

    def encoding_warnings(self, raw: RawTask, splits: dict[str, Split], reader: Any, max_length: int) -> list[str]:
        """What is suspicious about the encoded rows; one sentence each."""
        return []

    def read(self, source: DataSourceT) -> RawTask:
        """Three splits, and further tests where the source names some."""
        return self.read_tables(source, source.read_tables())

    def read_tables(self, source: DataSourceT, found: Tables) -> RawTask:
        """The task of rows that have been read already; `source` says what is in which column.

        Raises:
            BadRequestError: a column, label or split is missing or unusable.
        """
        source.check_roles()
        name, tables, digest = found
        given = {split: self.select(table, source, split) for split, table in tables.items()}
        splits, carved, dropped, warnings = carve(given, source.shares)
        warnings += shared_rows(given)
        for split in source.shares.model_fields_set - set(carved):
            raise BadRequestError(
                f"task.shares.{split} is set, but {split} data of task {name!r} are given and not carved: remove it"
            )
        for split, frame in splits.items():
            if frame.empty:
                raise BadRequestError(_why_empty(split, name, given["train"], split in (*carved, "train")))
        labelled, class_names = self.number_labels(splits, source, name)
        if dropped:
            warnings.append(
                f"left out: {counted(dropped, 'training row')} whose text is in a carved split with another group"
            )
        for split, table in tables.items():
            warnings += [f"{split} data: {warning}" for warning in table.attrs.get(WARNINGS, [])]
        warnings += doubtful_classes(class_names)
        return RawTask(name, class_names, source.metric, labelled, digest, self.name, source, carved, tuple(warnings))

    def encode(self, raw: RawTask, reader: Any, limits: DataLimits) -> TaskData:
        """Encode every split.

        Rows are sorted by a hash of their content, and a cap keeps the first ones. Neither depends on the order of rows
        in the source, and a smaller cap is part of a larger one.
        """
        self.check_reader(raw, reader, limits.max_length)
        for split in SPLITS:
            if (cap := limits.cap(split)) is not None and cap < 1:
                raise BadRequestError(f"max_{split}_examples is {cap}: use at least 1, or leave it out for all")
        splits: dict[str, Split] = {}
        sizes: dict[str, SplitSize] = {}
        sample = None
        for split in (*SPLITS, *(name for name in raw.splits if name not in SPLITS)):
            frame = _in_hash_order(raw.splits[split])[: limits.cap(split)]
            splits[split] = self.encode_split(raw, frame, split, reader, limits.max_length)
            sizes[split] = _size(raw, frame, split)
            if split == "validation" and self.evaluates_loss and len(frame) > SAMPLE_ROWS:
                sample = self.encode_split(raw, frame[:SAMPLE_ROWS], split, reader, limits.max_length)
        settings = self.settings(raw)
        about = [raw.type, raw.metric, repr(sorted(settings.items())), *_beside_tokens(raw, reader)]
        return TaskData(
            name=raw.name,
            class_names=raw.class_names,
            metric=raw.metric,
            splits=splits,
            digest=digest_of(splits, *about),
            loss=self.loss,
            type=raw.type,
            settings=settings,
            sizes=sizes,
            warnings=(*raw.warnings, *self.encoding_warnings(raw, splits, reader, limits.max_length)),
            validation_sample=sample,
        )

    def declares_rows(self, source: DataSourceT) -> bool:
        """Whether `examples` has the number of training rows."""
        return "train" in source.examples

    def assume(self, source: DataSourceT, reader: Any, limits: DataLimits) -> TaskData:
        """The declared number of rows, each of `max_length` tokens; missing splits take their share of them."""
        counts = carved_counts({split: count for split, count in source.examples.items()}, source.shares)  # noqa: C416
        splits: dict[str, Split] = {
            split: self.assume_split(source, max(1, min(count, limits.cap(split) or count)), limits.max_length, reader)
            for split, count in counts.items()
        }
        class_names = tuple(map(str, range(source.classes)))
        sizes = {split: SplitSize(len(rows)) for split, rows in splits.items()}
        return TaskData(
            source.name, class_names, source.metric, splits, "not loaded", self.loss, type=self.name, sizes=sizes
        )


def _size(raw: RawTask, frame: pd.DataFrame, split: str) -> SplitSize:
    """The size of a split of which `frame` is used."""
    counts = np.bincount(frame["label"], minlength=len(raw.class_names)).tolist() if raw.class_names else []
    classes = dict(zip(raw.class_names, counts, strict=True))
    return SplitSize(len(frame), classes, len(raw.splits[split]), split in raw.carved)


def _why_empty(split: str, task: str, train: pd.DataFrame, carved: bool) -> str:
    if not carved:
        return f"the {split} data of task {task!r} have no usable rows"
    groups = f" in {counted(train['group'].nunique(), 'group')}" if "group" in train else ""
    different = train["text"].nunique()
    labels = train["label"].nunique() if set(map(type, train["label"])) == {str} else 0
    texts = f", {counted(different, 'different text')}" if different < len(train) else ""
    classes = f", {counted(labels, 'different label')}" if labels > len(train) // 4 else ""
    return (
        f"the training data of task {task!r} are too few to carve splits from ({counted(len(train), 'row')}{groups}"
        f"{texts}{classes}): the {split} split would be empty; give more rows or files for all three splits"
    )


def _beside_tokens(raw: RawTask, reader: Any) -> list[str]:
    """What results and their records hold of a task beside its rows: names of classes, and tokens that fill and end."""
    tokens = [f"{name} {getattr(reader, name, None)}" for name in ("pad_token_id", "eos_token_id")]
    return [f"classes {list(raw.class_names)!r}", *tokens]


def _in_hash_order(frame: pd.DataFrame) -> pd.DataFrame:
    columns = [frame["text"], frame["text_pair"] if "text_pair" in frame else frame["text"], frame["label"]]
    keys = [
        hashlib.sha256(f"{text}\0{pair}\0{label}".encode()).digest() for text, pair, label in zip(*columns, strict=True)
    ]
    return frame.iloc[sorted(range(len(keys)), key=keys.__getitem__)]
