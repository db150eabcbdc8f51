"""Attention masks that are made without asking the device whether a batch is padded: the host knows that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from torch import Tensor
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from adapad_ray.training.batches import Batch

_BATCH: ContextVar[Batch | None] = ContextVar("batch", default=None)


@contextmanager
def known_padding(batch: Batch, on: bool = True) -> Iterator[None]:
    """Makes transformers take from `batch` whether it is padded, while the context is open.

    Otherwise transformers reads the mask in every forward pass, because attention without one is faster. The result is
    the same.
    """
    token = _BATCH.set(batch if on else None)
    try:
        yield
    finally:
        _BATCH.reset(token)


def _mask(make: Callable[..., Tensor | None], *, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """The mask that `make`, a function of transformers, makes from `attention_mask` `[batch, tokens]`."""
    batch = _BATCH.get()
    own = None if batch is None else batch.inputs.get("attention_mask")
    if batch is None or own is None or attention_mask is None or attention_mask.shape != own.shape:
        return make(attention_mask=attention_mask, **options)
    if not batch.padded:
        return make(attention_mask=None, **options)
    needed = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return make(attention_mask=attention_mask, **{**options, **needed})


for _name, _make in (("sdpa", sdpa_mask), ("eager", eager_mask)):
    AttentionMaskInterface.register(_name, partial(_mask, _make))
