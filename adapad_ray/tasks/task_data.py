"""What passes between a task and the rest of the package: rows, encoded splits, and evaluated predictions.

A *source* is what the user wrote under `task`. It is read into a `RawTask`, whose rows become the encoded splits of a
`TaskData`; a trained model is evaluated on these. *Items* are what a metric counts, such as questions. *Examples* are
what the model reads in one row of a batch; an item may have several, such as the windows of a long text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from adapad_ray.tasks.losses import Loss, cross_entropy
from adapad_ray.tasks.split_sizes import SplitSize
from adapad_ray.tasks.true_components import TrueComponents

if TYPE_CHECKING:
    import torch


class Split(Protocol):
    """The encoded examples of one split."""

    @property
    def labels(self) -> np.ndarray:
        """What predictions are compared with: `[items]`, or `[items, outputs]`."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example, int64 `[examples]`."""

    def __len__(self) -> int:
        """Number of examples."""

    def batch(self, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
        """The model's keyword arguments for these examples, and `labels` for the loss."""

    def size_of(self, batch: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        """Tokens of a batch, without and with padding."""

    def evaluation_batches(self, batch_size: int) -> list[np.ndarray]:
        """Index arrays that cover the split once."""


class Passes(Protocol):
    """A trained model during evaluation."""

    def outputs(self, split: Split) -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor], Any]]:
        """Indices, batch and the model's output, batch by batch; on the CPU, floating-point numbers in fp32."""

    def losses(self, split: Split, loss: Loss) -> np.ndarray:
        """The loss of every example, float64 `[examples]`, in the split's order; computed where the model is."""

    def generate(self, split: Split, max_new_tokens: int, ends: Sequence[int] = ()) -> list[str]:
        """The text that the model adds to every example's prompt by greedy decoding, in the split's order.

        `ends` are tokens that end it, beside the tokenizer's end-of-text token.
        """


@dataclass(frozen=True)
class Evaluated:
    """The results of a model on one split."""

    predictions: np.ndarray
    """float32 `[items, …]`: the argument of the deciding metric."""
    metrics: dict[str, float]
    """Name → value, the deciding metric among them; all are better when higher."""
    answers: tuple[str, ...] = ()
    """The model's answer to every item, where answers are texts."""
    loss: float | None = None
    """Mean training loss over the items, for chat over their tokens; None where predictions are not what the loss
    takes."""


@dataclass(frozen=True)
class DataLimits:
    """How much of the data is used."""

    max_length: int
    """Tokens; longer texts are cut."""
    max_train_examples: int | None = None
    """Rows; None for all."""
    max_validation_examples: int | None = None
    max_test_examples: int | None = None
    """Of the test, and of every further test."""

    def cap(self, split: str) -> int | None:
        """The most rows of a split."""
        name = split if split in ("train", "validation") else "test"
        cap: int | None = getattr(self, f"max_{name}_examples")
        return cap


@dataclass(frozen=True)
class RawTask:
    """A task before it is encoded."""

    name: str
    """For people: two tasks may share it, and differ in `TaskData.digest`."""
    class_names: tuple[str, ...]
    """Names of class 0, 1, …; empty without classes."""
    metric: str
    """Name of the deciding metric."""
    splits: Mapping[str, pd.DataFrame]
    """`train`, `validation`, `test`, and further tests as `test_<name>`: columns `text`, `label` and, if the task has
    them, `text_pair` and `group`. A type may add columns."""
    source_digest: str
    """sha256 over the source's files, or over its rows where it comes from the Hub."""
    type: str = "classification"
    source: Any = None
    """What the user wrote."""
    carved: tuple[str, ...] = ()
    """The splits that were carved from the training data."""
    warnings: tuple[str, ...] = ()
    """What is suspicious about the rows; one sentence each."""


@dataclass(frozen=True)
class TaskData:
    """A task ready for training."""

    name: str
    class_names: tuple[str, ...]
    metric: str
    splits: Mapping[str, Split]
    """`train`, `validation` and `test`, and further tests as `test_<name>`."""
    digest: str
    """sha256 over what determines a result and its record: the inputs and labels of all splits, the names of the
    classes, and `settings`."""
    loss: Loss = cross_entropy
    components: TrueComponents | None = None
    """The components that training should find, if they are known."""
    type: str = "classification"
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the type needs when it evaluates."""
    sizes: Mapping[str, SplitSize] = field(default_factory=dict)
    """Of every split."""
    warnings: tuple[str, ...] = ()
    """What is suspicious about the rows; one sentence each."""
    validation_sample: Split | None = None
    """The first rows of the validation split, if it has more."""

    @property
    def compared_on(self) -> Split:
        """The rows on which half-trained trials are compared: a sample shows well enough which are far behind."""
        return self.splits["validation"] if self.validation_sample is None else self.validation_sample


def digest_of(splits: Mapping[str, Split], *about: str) -> str:
    """sha256 over lines about the data, and over the arrays and texts of every split."""
    digest = hashlib.sha256("".join(f"{line}\n" for line in about).encode())
    for name, split in splits.items():
        digest.update(f"{name}\n".encode())
        _update(digest, split)
    return digest.hexdigest()


def _update(digest: Any, content: Any) -> None:
    for name, part in vars(content).items():
        digest.update(f"{name} {getattr(part, 'shape', '')} {getattr(part, 'dtype', '')}\n".encode())
        if is_dataclass(part):
            _update(digest, part)
        else:
            digest.update(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
