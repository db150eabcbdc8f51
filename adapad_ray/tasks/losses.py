"""Training losses: from a model's output and a batch's labels to one value per example, in fp32 at least."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[[Any, "Tensor"], "Tensor"]
"""`loss(output, labels)`: the model's output and the labels of a batch → one value per example, `[batch]`."""
IGNORED = -100
"""The label of a token that is not trained."""


def cross_entropy(output: Any, labels: Tensor) -> Tensor:
    """`-log softmax(logits)[label]` `[batch]` for logits `[batch, classes]` and class numbers `[batch]`."""
    import torch

    return torch.nn.functional.cross_entropy(_wide(output.logits), labels, reduction="none")


def half_squared_error(output: Any, labels: Tensor) -> Tensor:
    """`½ ‖y - ŷ‖²` `[batch]` for outputs and labels `[batch, outputs]`: the loss of the linear theory (2605.10741)."""
    error: Tensor = labels - output.logits
    return 0.5 * error.square().sum(dim=-1)


def squared_error(output: Any, labels: Tensor) -> Tensor:
    """`(y - ŷ)²` `[batch]` for outputs `[batch, 1]` and numbers `[batch]`: their mean is the MSE."""
    return (labels - _wide(output.logits)[:, 0]).square()


def span_cross_entropy(output: Any, labels: Tensor) -> Tensor:
    """Mean of the cross-entropies of start and end `[batch]`; logits `[batch, tokens]`, labels `[batch, 2]`."""
    import torch

    loss = torch.nn.functional.cross_entropy
    starts, ends = (_wide(logits) for logits in (output.start_logits, output.end_logits))
    return (loss(starts, labels[:, 0], reduction="none") + loss(ends, labels[:, 1], reduction="none")) / 2


def answer_cross_entropy(output: Any, labels: Tensor) -> Tensor:
    """Mean of `-log p(token)` over the tokens of each answer `[batch]`, so that every example counts once.

    Logits are `[batch, answer, vocabulary]`, each at the position before its token; labels `[batch, answer]`.
    """
    return answer_loss(output, labels) / (labels != IGNORED).sum(dim=1)


def answer_loss(output: Any, labels: Tensor) -> Tensor:
    """Sum of `-log p(token)` over the tokens of each answer `[batch]`, of the same logits and labels."""
    import torch

    losses = torch.nn.functional.cross_entropy(
        _wide(output.logits).transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    return losses.sum(dim=1)


def _wide(logits: Tensor) -> Tensor:
    """Logits in fp32 at least: a softmax in half precision loses small ones."""
    import torch

    return logits.to(torch.promote_types(logits.dtype, torch.float32))
