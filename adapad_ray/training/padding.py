"""Batches whose width is a multiple of something: the matrix units of GPUs prefer multiples of 8 or 64."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad


def pad_to_multiple(batch: dict[str, Tensor], multiple: int, pad_token_id: int) -> dict[str, Tensor]:
    """The batch with its texts `[batch, tokens]` widened by padding; batches without texts stay as they are.

    Prompts, whose answers end together, are widened on the left, other texts on the right. Nothing that is learnt or
    counted from the other end moves.
    """
    if "attention_mask" not in batch:
        return batch
    extra = -batch["attention_mask"].shape[1] % multiple
    if not extra:
        return batch
    sides = (extra, 0) if "logits_to_keep" in batch else (0, extra)
    fillers = {"input_ids": pad_token_id, "attention_mask": 0, "token_type_ids": 0, "position_ids": 0}
    return batch | {name: pad(batch[name], sides, value=fillers[name]) for name in fillers.keys() & batch.keys()}
