"""Passes of batches whose texts share rows, and whether a model keeps these texts apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adapad_ray.errors import BadRequestError
from adapad_ray.tasks import Split
from adapad_ray.tasks.losses import IGNORED
from adapad_ray.training.batches import Batch, PackedBatch
from adapad_ray.training.passes.attention_masks import texts_apart
from adapad_ray.training.passes.row_layout import lay_out

LARGEST_DIFFERENCE = 1e-3
"""Of the logits of texts in one row from those of each alone, relative to the logits."""
LARGEST_IN_16_BITS = 0.1
"""The same where products are rounded to 16 bits. Both are project defaults; a model that mixes texts is far beyond."""


def forward(model: Any, batch: Batch) -> Any:
    """Return the model's output for a batch; where texts share rows, `logits` are `[texts, answer, vocabulary]`."""
    if not isinstance(batch, PackedBatch):
        return output_of(model, batch)
    rows, columns = batch.logits_at.unbind(-1)
    with states_replaced(model.get_output_embeddings(), lambda states: states[rows, columns]):
        return output_of(model, batch)


def output_of(model: Any, batch: Batch) -> Any:
    """Return the model's output for a batch; where texts share rows, `logits` are those of all rows."""
    if not isinstance(batch, PackedBatch):
        return model(**batch.inputs)
    with texts_apart(batch.inputs["position_ids"]):
        return model(**batch.inputs)


@contextmanager
def states_replaced(embedding: nn.Module, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let a model's output embedding make logits of `replace(states)` in the place of its states."""
    hook = embedding.register_forward_pre_hook(lambda _, arguments: (replace(arguments[0]), *arguments[1:]))
    try:
        yield
    finally:
        hook.remove()


def in_one_row(model: Any) -> bool:
    """Return whether a model tells texts apart in batches of one row only, as the kernels of flash attention do."""
    return "flash" in str(getattr(model.config, "_attn_implementation", None))


def check_packing(model: Any, split: Split, pad_token_id: int, device: str, *, in_16_bits: bool) -> None:
    """Check that a model keeps texts in one row apart, on the three shortest texts of a split.

    Args:
        in_16_bits: whether some products are.

    Raises:
        BadRequestError: it does not, or it cannot be told where logits are needed.
    """
    if len(split) < 2:
        return
    difference = _difference(model, split, pad_token_id, device)
    if not difference <= (LARGEST_IN_16_BITS if in_16_bits else LARGEST_DIFFERENCE):
        raise BadRequestError(
            f"training.pack_sequences is true, but {type(model).__name__} does not keep the texts of a row apart: its "
            f"logits differ by {difference:.1%} from those of each text alone; set it to false"
        )


@torch.inference_mode()
def _difference(model: Any, split: Split, pad_token_id: int, device: str) -> float:
    """The relative difference of the logits of texts in shared rows from those of each alone."""
    order = np.argsort(split.lengths, kind="stable")[:3]
    batch = split.batch(order, pad_token_id)
    lengths = split.lengths[order]
    width = int(lengths.sum()) if in_one_row(model) else max(int(lengths[:2].sum()), int(lengths.max()))
    rows = lay_out(batch, width, pad_token_id)
    labels = batch.pop("labels")
    alone = model(**{name: value.to(device) for name, value in batch.items()}).logits
    inputs = {name: value.to(device) for name, value in rows.inputs.items()}
    packed = forward(model, PackedBatch(inputs, labels, (0, 0), rows.logits_at.to(device))).logits
    if packed.shape != alone.shape:
        return float("inf")
    learnt = (labels != IGNORED).to(device)
    alone, packed = alone[learnt].double(), packed[learnt].double()
    spread = (alone - alone.mean(-1, keepdim=True)).norm()
    return float((packed - alone).norm() / spread.clamp(min=torch.finfo(torch.float32).tiny))
