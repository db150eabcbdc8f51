"""What every type of task is to the rest: rows become splits, splits become batches, and outputs become a metric."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np
import pandas as pd

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks.source import DataSource
from adapad_ray.tasks.true_components import TrueComponents

if TYPE_CHECKING:
    import torch

AutoClass = Literal[
    "AutoModelForSequenceClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForCausalLM",
    "AutoModelForImageClassification",
]
"""The class of transformers that a task's model is loaded with."""


class Split(Protocol):
    """What training and evaluation ask of the examples of one split."""

    @property
    def labels(self) -> np.ndarray:
        """What predictions are compared with, one row an item: `[items]`, or `[items, outputs]`."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example, int64 `[examples]`."""

    def __len__(self) -> int:
        """Examples: what the model reads at one go. An item may be several, as windows of a long text are."""

    def batch(self, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
        """The model's inputs for these examples, and their `labels` as the loss wants them."""

    def size_of(self, batch: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Tokens of a batch, without and with padding."""

    def evaluation_batches(self, batch_size: int) -> list[np.ndarray]:
        """Index arrays that cover the split once."""


class Passes(Protocol):
    """A trained model, as a task's type sees it when it evaluates."""

    def outputs(self, split: Split) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor], Any]]:
        """Rows, batch and output of the model, batch by batch; everything on the CPU, numbers of the output in fp32."""

    def generate(self, split: Split, max_new_tokens: int) -> list[str]:
        """The text that the model adds to every example's prompt, greedily, in the split's order."""


@dataclass(frozen=True)
class Evaluated:
    """One split as a model did it."""

    predictions: np.ndarray
    """float32 `[items, …]`: what the metric of any subset of the items can be computed from."""
    metrics: dict[str, float]
    """Name → value, the deciding metric among them; all are better when higher."""
    answers: tuple[str, ...] = ()
    """What the model answered, item by item, where answers are texts."""


@dataclass(frozen=True)
class RawTask:
    """A task before tokenisation."""

    name: str
    """For people: two tasks may share it, `TaskData.digest` tells them apart."""
    label_names: tuple[str, ...]
    """Name of label 0, 1, …; empty where labels are no classes."""
    metric: str
    splits: Mapping[str, pd.DataFrame]
    """`train`, `validation`, `test`, and further tests as `test_<name>`: columns `text`, `label` and, where there are
    any, `text_pair`, `group`; a type may add columns of its own."""
    source_digest: str
    """sha256 over the source's files, or over its rows where it comes from the Hub."""
    type: str = "classification"
    source: Any = None
    """The user's description, for settings of the type."""


@dataclass(frozen=True)
class TaskData:
    """A task ready for training."""

    name: str
    label_names: tuple[str, ...]
    metric: str
    splits: Mapping[str, Split]
    """`train`, `validation` and `test`, and further tests as `test_<name>`."""
    digest: str
    """sha256 over the inputs and labels of all splits: what determines a result, and nothing else."""
    loss: str = "cross_entropy"
    """Name of the training loss in `tasks.losses`."""
    components: TrueComponents | None = None
    """What trained components are compared with, where the task knows it."""
    type: str = "classification"
    """Whose way to evaluate is used."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the type has to know when it evaluates."""


SourceT = TypeVar("SourceT", bound=DataSource)


class TaskType(ABC, Generic[SourceT]):
    """One type of task: how its rows are read and encoded, and what its model is judged by. A file a type."""

    name: ClassVar[str]
    """What `task.type` says in a sweep's file."""
    auto_class: ClassVar[AutoClass]
    loss: ClassVar[str] = "cross_entropy"
    Source: type[SourceT]
    """The fields of `task`."""

    @abstractmethod
    def select(self, table: pd.DataFrame, source: SourceT, split: str) -> pd.DataFrame:
        """The type's columns of one split's rows under our names.

        Raises:
            BadRequestError: a column is missing, or a value of it is unusable.
        """

    def label(
        self, splits: Mapping[str, pd.DataFrame], source: SourceT, name: str
    ) -> tuple[dict[str, pd.DataFrame], tuple[str, ...]]:
        """Splits whose labels are final, and the labels' names; for the task called `name` in messages.

        Raises:
            BadRequestError: labels and metric do not go together.
        """
        return dict(splits), ()

    def metric(self, source: SourceT) -> str:
        """Name of the deciding metric."""
        return str(getattr(source, "metric"))  # noqa: B009

    def outputs(self, label_names: tuple[str, ...]) -> int:
        """Outputs of the model's head."""
        return len(label_names)

    @abstractmethod
    def encode(self, raw: RawTask, frame: pd.DataFrame, split: str, reader: Any, max_length: int) -> Split:
        """One split as the model reads it.

        Args:
            reader: the model's tokenizer, or the format of its images.
            split: `train` or another; some types show their answers to the training alone.
        """

    def settings(self, raw: RawTask) -> dict[str, Any]:
        """`TaskData.settings`; all that is in them is part of the data's digest."""
        return {}

    def check_reader(self, raw: RawTask, reader: Any, max_length: int) -> None:
        """Refuse what cannot be encoded.

        Raises:
            BadRequestError: `max_length` leaves no room for a text, or exceeds the model's limit.
        """

    @abstractmethod
    def evaluate(self, data: TaskData, passes: Passes, splits: list[str]) -> dict[str, Evaluated]:
        """The named splits as the model does them; `validation` is the first, and alone may settle a threshold.

        Raises:
            FloatingPointError: an output of the model is not finite.
        """

    @abstractmethod
    def assume(self, source: SourceT, count: int, max_length: int, reader: Any) -> Split:
        """A split of `count` examples of `max_length` tokens without content, to plan with where there are no data."""


def digest_of(splits: Mapping[str, Mapping[str, Any]], *about: str) -> str:
    """sha256 over what is `about` the data, and over named arrays and texts of every split."""
    digest = hashlib.sha256("".join(f"{line}\n" for line in about).encode())
    for name, parts in splits.items():
        digest.update(f"{name}\n".encode())
        for key, part in parts.items():
            digest.update(f"{key} {getattr(part, 'shape', '')} {getattr(part, 'dtype', '')}\n".encode())
            content = np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode()
            digest.update(content)
    return digest.hexdigest()


def require_columns(table: pd.DataFrame, wanted: Mapping[str, str | None], split: str) -> None:
    """Check that the columns are there and full; `wanted` is our name → theirs, or None where there is none.

    Raises:
        BadRequestError: one is missing, or empty in some rows.
    """
    for ours, theirs in wanted.items():
        if theirs is None:
            continue
        if theirs not in table:
            raise BadRequestError(
                f"the {split} data have no column {theirs!r} for {ours!r}: available are {', '.join(map(str, table))}"
            )
        column = table[theirs]
        if nulls := int(column.isna().sum()):
            raise BadRequestError(
                f"column {theirs!r} of the {split} data is empty in {nulls:,} of {len(column):,} rows: "
                "fill or drop them"
            )


def with_group(frame: pd.DataFrame, table: pd.DataFrame, source: DataSource) -> pd.DataFrame:
    """The frame with its `group` as strings, where the source names one; both tables have the same rows."""
    return frame if source.group is None else frame.assign(group=table[source.group].astype(str).to_numpy())


def batches_in_order(count: int, batch_size: int) -> list[np.ndarray]:
    """Index arrays that cover so many examples once, in order."""
    return [np.arange(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]


@dataclass(frozen=True)
class AssumedSplit:
    """Examples of one length and without content: enough to count and to time, without the data."""

    count: int
    length: int
    """Tokens of each."""
    make: Callable[[int], dict[str, np.ndarray]]
    """The batch of so many examples."""

    def __len__(self) -> int:
        return self.count

    @property
    def lengths(self) -> np.ndarray:
        """The same for all, int64 `[examples]`."""
        return np.full(self.count, self.length, dtype=np.int64)

    @property
    def labels(self) -> np.ndarray:
        """Zeros, int64 `[examples]`."""
        return np.zeros(self.count, dtype=np.int64)

    def batch(self, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
        """As many examples as `indices` names."""
        import torch

        return {name: torch.from_numpy(array) for name, array in self.make(len(indices)).items()}

    def size_of(self, batch: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Tokens of a batch, which has no padding, twice."""
        tokens = len(batch["pixel_values" if "pixel_values" in batch else "input_ids"]) * self.length
        return tokens, tokens

    def evaluation_batches(self, batch_size: int) -> list[np.ndarray]:
        """Index arrays that cover the split once, in order."""
        return batches_in_order(self.count, batch_size)
