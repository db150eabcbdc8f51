"""Batches of the training data: their order, their padding, their way to the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.trainer_pt_utils import get_length_grouped_indices

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import Split
from adapad_ray.tasks.losses import IGNORED
from adapad_ray.training.passes.row_layout import lay_out, width_of
from adapad_ray.training.randomness import generator
from adapad_ray.training.settings import TrainingSettings

SHARED_BY_EXAMPLES = frozenset({"logits_to_keep"})
"""Inputs without an axis of examples: positions of logits, counted from the end."""


@dataclass(frozen=True)
class Batch:
    """Some training examples, on the device of the model."""

    inputs: dict[str, Tensor]
    """Arguments of the model's forward pass."""
    labels: Tensor
    size: tuple[int, int]
    """Tokens without and with padding."""
    learnt: Tensor | None = field(default=None, kw_only=True)
    """bool, as labels of tokens `[batch, answer]`: those that are not ignored. It is always on the host."""

    @property
    def padded(self) -> bool:
        """Whether some example is shorter than the batch."""
        return self.size[0] < self.size[1]

    @property
    def rows(self) -> int:
        """Rows that pass through the model."""
        return len(self.labels)

    def places(self, example: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """Where, in its first two dimensions, the model's output embedding reads what predicts some labels."""
        return example, token

    def parts(self, most: int | None) -> Sequence[Batch]:
        """The batch in parts of at most `most` examples, each as wide as the whole; None: undivided.

        Sizes in tokens are those of the whole batch.
        """
        if most is None or len(self.labels) <= most:
            return [self]
        return [
            Batch(
                {
                    name: value if name in SHARED_BY_EXAMPLES else value[first : first + most]
                    for name, value in self.inputs.items()
                },
                self.labels[first : first + most],
                self.size,
                learnt=None if self.learnt is None else self.learnt[first : first + most],
            )
            for first in range(0, len(self.labels), most)
        ]


@dataclass(frozen=True)
class PackedBatch(Batch):
    """Examples whose texts share rows: `input_ids` and `position_ids` are `[rows, tokens]`."""

    logits_at: Tensor
    """Row and column of the logits that predict each label, int64 `[batch, answer, 2]`."""

    @property
    def rows(self) -> int:
        return len(self.inputs["input_ids"])

    def places(self, example: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        row, column = self.logits_at[example, token].unbind(-1)
        return row, column


@dataclass(frozen=True)
class DividedBatch(Batch):
    """Examples in micro-batches that are not parts of the same rows. It has no inputs of its own."""

    micro_batches: tuple[Batch, ...]

    def parts(self, most: int | None) -> Sequence[Batch]:
        return self.micro_batches


class Batches:
    """The training batches of a cell: a function of (seed, step), the settings and the data alone.

    Args:
        in_step: whether, where examples are grouped by length, those of a step are about as long as those of other
            cells in the same step, whatever their seeds: cells that share passes then need little padding.
        one_row: whether texts that share rows are all in one, as some kernels need it.

    Raises:
        BadRequestError: texts should share rows, but are no prompts with answers.
    """

    def __init__(
        self,
        data: Split,
        settings: TrainingSettings,
        *,
        seed: int,
        pad_token_id: int,
        device: torch.device | str = "cpu",
        in_step: bool = False,
        one_row: bool = False,
    ) -> None:
        if settings.pack_sequences and not getattr(data, "can_share_rows", False):
            raise BadRequestError(
                "training.pack_sequences is true, but the examples of this task cannot share rows: set it to false"
            )
        self.one_row = one_row
        self.data, self.settings, self.seed = data, settings, seed
        self.pad_token_id, self.device, self.in_step = pad_token_id, device, in_step
        self.pads_left: bool = getattr(data, "pads_left", False)
        self._epoch: tuple[int, list[np.ndarray]] | None = None

    def rows(self, step: int) -> np.ndarray:
        """Row numbers of the whole batch of optimizer step `step` (from 0)."""
        epoch, position = divmod(step, self.settings.steps_per_epoch(len(self.data)))
        if self._epoch is None or self._epoch[0] != epoch:
            size, grouped = self.settings.batch_size, self.settings.group_by_length
            lengths = self.data.lengths
            batches = epoch_batches(self.seed, epoch, lengths, size, group_by_length=grouped, in_step=self.in_step)
            self._epoch = epoch, batches
        return self._epoch[1][position]

    def load(self, rows: np.ndarray) -> Batch:
        """The examples with these row numbers, padded and moved to the device.

        Tokens are counted before the move, and the host does not wait for the copies.
        """
        batch = self.data.batch(rows, self.pad_token_id)
        if self.settings.pack_sequences and len(rows):
            return self._packed(batch)
        batch = pad_to_multiple(batch, self.settings.pad_to_multiple_of, self.pad_token_id, left=self.pads_left)
        labels = batch.pop("labels")
        size = self.data.size_of(batch)
        learnt = labels != IGNORED if "logits_to_keep" in batch else None
        inputs = {key: self._moved(value) for key, value in batch.items()}
        return Batch(inputs, self._moved(labels), size, learnt=learnt)

    def _packed(self, batch: dict[str, Tensor]) -> Batch:
        """The examples of a batch in shared rows; micro-batches have rows of their own."""
        count = len(batch["labels"])
        most = self.settings.micro_batch_size or count
        laid_out = []
        for first in range(0, count, most):
            part = {
                name: value if name in SHARED_BY_EXAMPLES else value[first : first + most]
                for name, value in batch.items()
            }
            lengths = part["attention_mask"].sum(1).numpy()
            width = width_of(lengths, self.settings.pad_to_multiple_of, one_row=self.one_row)
            laid_out.append(lay_out(part, width, self.pad_token_id))
        tokens = int(batch["attention_mask"].sum()), sum(rows.inputs["input_ids"].numel() for rows in laid_out)
        parts = [
            PackedBatch(
                {name: self._moved(value) for name, value in rows.inputs.items()},
                self._moved(rows.labels),
                tokens,
                self._moved(rows.logits_at),
                learnt=rows.labels != IGNORED,
            )
            for rows in laid_out
        ]
        return parts[0] if len(parts) == 1 else DividedBatch({}, batch["labels"], tokens, tuple(parts))

    def widest(self) -> Batch:
        """A batch of the longest examples, which needs the most memory."""
        return self.load(np.argsort(self.data.lengths, kind="stable")[-self.settings.batch_size :])

    def _moved(self, value: Tensor) -> Tensor:
        if torch.device(self.device).type == "cuda":  # other devices read ordinary memory
            value = value.pin_memory()
        return value.to(self.device, non_blocking=True)


def epoch_batches(
    seed: int, epoch: int, lengths: np.ndarray, batch_size: int, *, group_by_length: bool, in_step: bool = False
) -> list[np.ndarray]:
    """Row numbers of every batch of one epoch, in order: a function of (seed, epoch) and the data alone.

    With `group_by_length` the examples are drawn into pools of up to 50 batches, sorted by length inside a pool, and
    the resulting batches are shuffled: every epoch covers every example once, with far less padding. `in_step` shuffles
    the batches alike for all seeds, so that the batches of a step have about the same length.
    """
    draw = generator(seed, "order", epoch)
    if not group_by_length:
        rows = torch.randperm(len(lengths), generator=draw).numpy()
        return [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    rows = np.array(get_length_grouped_indices(lengths.tolist(), batch_size, generator=draw))
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    shuffle = generator(0, "order of batches", epoch) if in_step else draw
    return [batches[i] for i in torch.randperm(len(batches), generator=shuffle).tolist()]


def pad_to_multiple(
    batch: dict[str, Tensor], multiple: int, pad_token_id: int, *, left: bool = False
) -> dict[str, Tensor]:
    """The batch with its texts `[batch, tokens]` padded to a multiple of `multiple` tokens.

    The matrix units of GPUs prefer multiples of 8 or 64. The padding goes where that of the batch is: to the `left` for
    prompts, whose answers end together, and for models that read the last position. Batches without texts are returned
    unchanged.
    """
    if "attention_mask" not in batch:
        return batch
    extra = -batch["attention_mask"].shape[1] % multiple
    return _widened(batch, extra, pad_token_id, left=left)


def joined(batches: Sequence[Batch], pad_token_id: int, *, left: bool = False) -> Batch:
    """The examples of several batches in one, padded to the width of the widest: those of a pack, slot by slot.

    Labels of tokens are widened with `IGNORED` on the same side, and as many logits are kept as the longest answer of
    any batch needs.
    """
    inputs = [batch.inputs for batch in batches]
    packed = [batch for batch in batches if isinstance(batch, PackedBatch)]
    left = left and not packed  # rows that texts share are padded at their end
    if "attention_mask" in inputs[0] or packed:
        widths = [of_one["input_ids"].shape[1] for of_one in inputs]
        extra = [max(widths) - width for width in widths]
        inputs = [_widened(of_one, n, pad_token_id, left=left) for of_one, n in zip(inputs, extra, strict=True)]
    whole = {
        name: max((of_one[name] for of_one in inputs), key=len)
        if name in SHARED_BY_EXAMPLES
        else torch.cat([of_one[name] for of_one in inputs])
        for name in inputs[0]
    }
    labels = [batch.labels for batch in batches]
    learnt = [batch.learnt for batch in batches if batch.learnt is not None]
    if labels[0].ndim > 1 and len({of_one.shape[1] for of_one in labels}) > 1:
        width = max(of_one.shape[1] for of_one in labels)
        sides = [_sides(width - one.shape[1], left=left) for one in labels]
        labels = [pad(one, side, value=IGNORED) for one, side in zip(labels, sides, strict=True)]
        learnt = [pad(one, side) for one, side in zip(learnt, sides, strict=False)]  # of all, or of none
    known = torch.cat(learnt) if learnt else None
    tokens, padded = sum(batch.size[0] for batch in batches), whole.get("attention_mask")
    size = tokens, sum(batch.size[1] for batch in batches) if padded is None else padded.numel()
    if packed:
        return PackedBatch(whole, torch.cat(labels), size, _joined_places(packed), learnt=known)
    return Batch(whole, torch.cat(labels), size, learnt=known)


def _joined_places(batches: Sequence[PackedBatch]) -> Tensor:
    """Where the logits of all batches are, once their rows are one after another."""
    longest, row, joined_places = max(batch.logits_at.shape[1] for batch in batches), 0, []
    for batch in batches:
        at = pad(batch.logits_at, (0, 0, 0, longest - batch.logits_at.shape[1]))  # for labels that are ignored
        joined_places.append(at + torch.tensor([row, 0], device=at.device))
        row += batch.rows
    return torch.cat(joined_places)


def _sides(extra: int, *, left: bool) -> tuple[int, int]:
    return (extra, 0) if left else (0, extra)


def _widened(batch: dict[str, Tensor], extra: int, pad_token_id: int, *, left: bool) -> dict[str, Tensor]:
    """The batch with `extra` more tokens of padding."""
    if not extra:
        return batch
    sides = _sides(extra, left=left)
    fillers = {"input_ids": pad_token_id, "attention_mask": 0, "token_type_ids": 0, "position_ids": 0}
    return batch | {name: pad(batch[name], sides, value=fillers[name]) for name in fillers.keys() & batch.keys()}
