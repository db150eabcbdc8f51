"""Training losses by name, one value per example."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """`-log softmax(logits)[label]` `[batch]` for logits `[batch, classes]` and class numbers `[batch]`."""
    import torch

    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.nn.functional.cross_entropy(wide, labels, reduction="none")


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """`½ ‖y - ŷ‖²` `[batch]` for outputs and labels `[batch, outputs]`: the loss of the linear theory (2605.10741)."""
    return 0.5 * (labels - logits).square().sum(dim=-1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "squared_error": squared_error,
}
