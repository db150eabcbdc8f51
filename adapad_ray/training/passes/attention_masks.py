"""Attention masks that are made without asking the device whether a batch is padded, and that keep texts apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from torch import Tensor
from transformers.masking_utils import (
    AttentionMaskInterface,
    and_masks,
    eager_mask,
    packed_sequence_mask_function,
    sdpa_mask,
)

from adapad_ray.training.batches import Batch

_BATCH: ContextVar[Batch | None] = ContextVar("batch", default=None)
_TEXTS: ContextVar[Tensor | None] = ContextVar("texts", default=None)


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


@contextmanager
def texts_apart(positions: Tensor) -> Iterator[None]:
    """Makes tokens see their own text only, while the context is open.

    transformers does so by itself for models that hand positions to the mask; OPT and Falcon do not.

    Args:
        positions: int64 `[rows, tokens]`; they begin anew with every text.
    """
    token = _TEXTS.set((positions.diff(dim=1, prepend=positions[:, :1] - 1) != 1).cumsum(1))
    try:
        yield
    finally:
        _TEXTS.reset(token)


def _mask(make: Callable[..., Tensor | None], *, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """The mask that `make`, a function of transformers, makes from `attention_mask` `[batch, tokens]`."""
    batch, texts = _BATCH.get(), _TEXTS.get()
    if texts is not None and attention_mask is None:
        function = and_masks(options["mask_function"], packed_sequence_mask_function(texts))
        return make(attention_mask=None, **options | {"mask_function": function, "allow_is_causal_skip": False})
    own = None if batch is None else batch.inputs.get("attention_mask")
    if batch is None or own is None or attention_mask is None or attention_mask.shape != own.shape:
        return make(attention_mask=attention_mask, **options)
    if not batch.padded:
        return make(attention_mask=None, **options)
    needed = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    return make(attention_mask=attention_mask, **{**options, **needed})


for _name, _make in (("sdpa", sdpa_mask), ("eager", eager_mask)):
    AttentionMaskInterface.register(_name, partial(_mask, _make))
